//! What some tests need to be allowed, and how they say that they were skipped for want of it.

use std::{
    any, fs,
    io::{self, Write},
};

/// A capability, by its number in `capabilities(7)`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Capability {
    /// To give files away.
    Chown = 0,
    /// To take capabilities from a child for good.
    SetPcap = 8,
    /// To mount.
    SysAdmin = 21,
}

impl Capability {
    fn name(self) -> &'static str {
        match self {
            Self::Chown => "CAP_CHOWN",
            Self::SetPcap => "CAP_SETPCAP",
            Self::SysAdmin => "CAP_SYS_ADMIN",
        }
    }
}

/// Runs a command without any capability. Even root is then kept out of what belongs to somebody else, as
/// everybody is, and all that it needs of this checkout it can still reach.
pub(crate) const WITHOUT_ANY: [&str; 3] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];

/// Whether the tests have all of `needed`. If not, says that `test` is skipped.
pub(crate) fn has<T>(test: T, needed: &[Capability]) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap();
    let effective = u64::from_str_radix(line.trim(), 16).unwrap();
    let missing: Vec<_> = needed
        .iter()
        .filter(|&&capability| effective & (1 << capability as u32) == 0)
        .map(|capability| capability.name())
        .collect();
    if !missing.is_empty() {
        skipped(
            test,
            &format!("it takes the capabilities {missing:?}, as root has them"),
        );
    }
    missing.is_empty()
}

/// Says that `test`, the function itself, is skipped, where nobody can capture it.
pub(crate) fn skipped<T>(_test: T, missing: &str) {
    let name = any::type_name::<T>();
    let _ = writeln!(io::stdout(), "SKIPPED {name}: {missing}");
}
