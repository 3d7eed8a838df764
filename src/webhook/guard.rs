//! Where a webhook may go: the one place that says so.
//!
//! Whoever types a URL has shipbell send requests from where it stands, inside a network that they may not
//! be in. So a URL is judged twice: when it is saved or tested, as far as its text tells ([`Guard::check_url`]),
//! and at every connect, by the addresses that its name has at that moment ([`Guard::check_addresses`]); the
//! addresses that were judged are the ones that are connected to. What is connected is looked at once more
//! ([`Guard::check_connection`]), for some of our own addresses show only then. A proxy that resolves the names
//! is what guards them; addresses in a URL are judged all the same.
//!
//! URLs in the configuration are the operator's, who may point them into private networks. Some addresses are
//! nobody's to send to: those at which clouds hand out a machine's credentials, and shipbell's own listeners.
//!
//! The networks are those of the IANA special-purpose registries (RFC 6890 and its successors).

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use ipnet::IpNet;

use super::target::Target;

/// Whose URL it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Author {
    /// The operator's, from the configuration.
    #[default]
    Operator,
    /// A user's, from the settings page or the API.
    User,
}

/// What is special about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Where clouds hand out credentials, or a link of its own: nobody's to send to.
    Metadata,
    /// One of shipbell's own listeners: nobody's to send to.
    OwnListener,
    /// The machine itself.
    Loopback,
    /// RFC 1918.
    Private,
    /// `fec0::/10`, IPv6's former site-local addresses, RFC 3879.
    SiteLocal,
    /// `fc00::/7`, RFC 4193.
    UniqueLocal,
    /// `100.64.0.0/10`, RFC 6598.
    CarrierNat,
    /// A group, not a host.
    Multicast,
    /// No address at all.
    Unspecified,
    /// Set aside: nothing public is there.
    Reserved,
    /// An IPv4 address in the form of an IPv6 one: mapped, compatible, translated, 6to4, NAT64 or Teredo.
    Embedded,
}

impl Special {
    fn words(self) -> &'static str {
        match self {
            Self::Metadata => "where clouds hand out a machine's credentials, or a link's own address",
            Self::OwnListener => "shipbell's own listener",
            Self::Loopback => "this machine itself (loopback)",
            Self::Private => "in a private network (RFC 1918)",
            Self::SiteLocal => "in a private network (RFC 3879)",
            Self::UniqueLocal => "in a private network (RFC 4193)",
            Self::CarrierNat => "in a carrier's shared network (RFC 6598)",
            Self::Multicast => "a multicast group",
            Self::Unspecified => "no address of a host",
            Self::Reserved => "in a reserved network",
            Self::Embedded => "an IPv4 address written as an IPv6 one",
        }
    }

    /// Whether no configuration allows it.
    #[must_use]
    pub fn is_never_allowed(self) -> bool {
        matches!(self, Self::Metadata | Self::OwnListener)
    }
}

/// Why a URL may not be sent to. Says nothing secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// The name, when it is one that was resolved.
    pub name: Option<String>,
    /// The address.
    pub address: IpAddr,
    /// What is special about it.
    pub special: Special,
}

impl Refusal {
    /// The same as a sentence about a URL, which is "it".
    #[must_use]
    pub fn of_url(&self) -> String {
        match self.name {
            Some(_) => self.to_string(),
            None => format!("it points to {self}"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            address,
            special,
        } = self;
        if let Some(name) = name {
            write!(f, "{name} resolves to ")?;
        }
        write!(f, "{address}, which is {}", special.words())?;
        if special.is_never_allowed() {
            return f.write_str(": webhooks never go there");
        }
        // Of an IPv4 address within an IPv6 one it is the IPv4 one that is not public.
        let inner = match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => {
                embedded(*address).filter(|inner| self::special((*inner).into()).is_some())
            }
        };
        let network = IpNet::from(inner.map_or(*address, IpAddr::V4));
        write!(
            f,
            ": webhooks go there only once the operator allows it, with allow_networks = [\"{network}\"] under [delivery], \
             and restarts shipbell"
        )
    }
}

/// Judges where webhooks may go. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Guard(Arc<Rules>);

#[derive(Debug, Default)]
struct Rules {
    allowed: Vec<IpNet>,
    own: Vec<SocketAddr>,
}

impl Guard {
    /// A guard that lets users' URLs into these networks besides public ones, and nobody's to the listeners at
    /// `own`: the addresses they are bound to.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>, own: Vec<SocketAddr>) -> Self {
        Self(Arc::new(Rules { allowed, own }))
    }

    /// Judges a URL by its text: an address in any spelling, or a name that means this machine. Any other name
    /// is judged by its addresses, at each connect.
    ///
    /// # Errors
    /// It may not be sent to.
    pub fn check_url(&self, target: &Target, author: Author) -> Result<(), Refusal> {
        self.check_host(target.host(), target.port(), author)
    }

    /// The same for a URL's host and port.
    pub(super) fn check_host(&self, host: &str, port: u16, author: Author) -> Result<(), Refusal> {
        let address = match literal(host) {
            Some(address) => address,
            None if is_localhost(host) => Ipv4Addr::LOCALHOST.into(),
            None => return Ok(()),
        };
        self.check_address(SocketAddr::new(address, port), author)
    }

    /// Judges the addresses that a name has. One that may not be sent to spoils all: a name that has it is not
    /// to be trusted with the others.
    ///
    /// # Errors
    /// They may not be sent to.
    pub fn check_addresses(
        &self,
        name: &str,
        addresses: &[SocketAddr],
        author: Author,
    ) -> Result<(), Refusal> {
        let name = literal(name).is_none().then(|| name.to_owned());
        addresses
            .iter()
            .try_for_each(|address| self.check_address(*address, author))
            .map_err(|refusal| Refusal { name, ..refusal })
    }

    /// Judges a connection before anything is sent: one that ends at this machine, at a port of ours, ends at
    /// us if we listen there on all addresses.
    ///
    /// # Errors
    /// It may not be used.
    pub fn check_connection(&self, local: SocketAddr, peer: SocketAddr) -> Result<(), Refusal> {
        let (local, peer) = (canonical(local), canonical(peer));
        let is_own = |own: &SocketAddr| {
            own.port() == peer.port()
                && (own.ip() == peer.ip() || (own.ip().is_unspecified() && local.ip() == peer.ip()))
        };
        if self.0.own.iter().any(is_own) {
            return Err(refusal(peer.ip(), Special::OwnListener));
        }
        Ok(())
    }

    fn check_address(&self, address: SocketAddr, author: Author) -> Result<(), Refusal> {
        let ip = address.ip();
        let special = special(ip);
        if special == Some(Special::Metadata) {
            return Err(refusal(ip, Special::Metadata));
        }
        if self.is_own(address) {
            return Err(refusal(ip, Special::OwnListener));
        }
        match special {
            Some(special) if author == Author::User && !self.is_allowed(ip) => Err(refusal(ip, special)),
            _ => Ok(()),
        }
    }

    /// Whether one of our listeners is there, as far as the address tells.
    fn is_own(&self, address: SocketAddr) -> bool {
        let address = canonical(address);
        let ip = address.ip();
        // To connect to no address is to connect to this machine.
        let is_at = |own: IpAddr| match (own.is_unspecified(), ip.is_unspecified()) {
            (true, is_nowhere) => is_nowhere || ip.is_loopback() || is_this_machines(ip),
            (false, true) => own.is_loopback(),
            (false, false) => own == ip,
        };
        let own = self.0.own.iter();
        own.filter(|own| own.port() == address.port())
            .any(|own| is_at(own.ip()))
    }

    /// Whether the configuration lets users' URLs there. What an IPv6 address holds of an IPv4 one has to be
    /// allowed, too, unless it is public.
    fn is_allowed(&self, ip: IpAddr) -> bool {
        let is_listed = |ip: IpAddr| self.0.allowed.iter().any(|network| network.contains(&ip));
        let inner = match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => embedded(ip).map(IpAddr::V4),
        };
        match inner {
            Some(inner) => is_listed(inner) || (is_listed(ip) && special(inner).is_none()),
            None => is_listed(ip),
        }
    }
}

fn refusal(address: IpAddr, special: Special) -> Refusal {
    Refusal {
        name: None,
        address,
        special,
    }
}

/// The address that a URL's host is; a URL parser has rewritten an IPv4 address in any other spelling (decimal,
/// octal, hexadecimal, fewer parts) by then.
fn literal(host: &str) -> Option<IpAddr> {
    let host = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    host.parse().ok()
}

/// `localhost` and all names under it (RFC 6761, section 6.3).
fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    last.eq_ignore_ascii_case("localhost")
}

/// An IPv4 address that a socket shows as an IPv6 one is the IPv4 address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether this machine has the address: what is sent to it goes out from it, too. Nothing is sent.
fn is_this_machines(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let local = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind((any, 0))?;
        // To any port: only a route is looked for.
        socket.connect((ip, 9))?;
        Ok(socket.local_addr()?.ip())
    };
    local().is_ok_and(|local| local == ip)
}

/// What is special about an address; `None` for a public one.
#[must_use]
pub fn special(ip: IpAddr) -> Option<Special> {
    match ip {
        IpAddr::V4(ip) => special_v4(ip),
        IpAddr::V6(ip) => special_v6(ip),
    }
}

fn special_v4(ip: Ipv4Addr) -> Option<Special> {
    match ip.octets() {
        // Alibaba Cloud's and Azure's; all others are link-local.
        [169, 254, ..] | [100, 100, 100, 200] | [168, 63, 129, 16] => Some(Special::Metadata),
        [127, ..] => Some(Special::Loopback),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(Special::Private),
        [100, 64..=127, ..] => Some(Special::CarrierNat),
        [224..=239, ..] => Some(Special::Multicast),
        [0, 0, 0, 0] => Some(Special::Unspecified),
        [0 | 240..=255, ..] | [192, 0, 0, _] | [198, 18..=19, ..] => Some(Special::Reserved),
        _ => None,
    }
}

fn special_v6(ip: Ipv6Addr) -> Option<Special> {
    /// AWS's, reachable from within a Nitro instance.
    const AWS: [u16; 8] = [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254];
    if let Some(inner) = embedded(ip) {
        let is_metadata = special_v4(inner) == Some(Special::Metadata);
        return Some(if is_metadata {
            Special::Metadata
        } else {
            Special::Embedded
        });
    }
    match ip.segments() {
        AWS | [0xfe80..=0xfebf, ..] => Some(Special::Metadata),
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Special::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Special::Loopback),
        [0xfc00..=0xfdff, ..] => Some(Special::UniqueLocal),
        [0xfec0..=0xfeff, ..] => Some(Special::SiteLocal),
        [0xff00..=0xffff, ..] => Some(Special::Multicast),
        [0x64, 0xff9b, 1, ..] if may_translate_to_metadata(ip) => Some(Special::Metadata),
        [0x64, 0xff9b, 1, ..] => Some(Special::Embedded),
        // All that is public.
        [0x2000..=0x3fff, ..] => None,
        _ => Some(Special::Reserved),
    }
}

/// Whether an address for local-use translation (RFC 8215) leads there by any prefix that the network may have chosen
/// within `64:ff9b:1::/48`: its length says where the IPv4 address stands (RFC 6052, section 2.2).
fn may_translate_to_metadata(ip: Ipv6Addr) -> bool {
    // Prefixes of 48, 56, 64 and 96 bits end there, the ninth octet left out: it is no part of any address.
    const ENDS: [usize; 4] = [6, 7, 8, 11];
    let mut octets = ip.octets().to_vec();
    octets.remove(8);
    let inner = |end: usize| octets.get(end..)?.first_chunk::<4>().copied();
    let is_metadata = |inner: [u8; 4]| special_v4(inner.into()) == Some(Special::Metadata);
    ENDS.into_iter().filter_map(inner).any(is_metadata)
}

/// The IPv4 address that an IPv6 one leads to.
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [high, low] = match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => return None,
        // Compatible and mapped (RFC 4291), translated (RFC 2765), NAT64 (RFC 6052).
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        // 6to4 (RFC 3056).
        | [0x2002, high, low, ..] => [high, low],
        // Teredo (RFC 4380): the client's, inverted.
        [0x2001, 0, .., high, low] => [!high, !low],
        _ => return None,
    };
    let [a, b] = high.to_be_bytes();
    let [c, d] = low.to_be_bytes();
    Some(Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests;
