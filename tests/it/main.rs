//! The integration tests: the real binary, held to what it promises on the outside, with the real
//! registry on one side and a raw socket on the other.
//!
//! `make test` installs the programs they need: `docker-registry`, `skopeo`, `htpasswd` and `webhook`; `strace`,
//! `mkfs.ext4`, `mount` and `setpriv` for the faults. Those that take a privilege which the tests don't have
//! print a line that begins with `SKIPPED`.

#[cfg(test)]
mod access;
#[cfg(test)]
mod again;
#[cfg(test)]
mod api;
#[cfg(test)]
mod backlog;
#[cfg(test)]
mod batching;
#[cfg(test)]
mod browser;
#[cfg(test)]
mod canaries;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod delivery;
#[cfg(test)]
mod described;
#[cfg(test)]
mod disks;
#[cfg(test)]
mod envelopes;
#[cfg(test)]
mod exchange;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod folders;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod health;
#[cfg(test)]
mod history;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod hurry;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod journal_tools;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod letters;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod moves;
#[cfg(test)]
mod operations;
#[cfg(test)]
mod own_states;
#[cfg(test)]
mod own_webhooks;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod proxied;
#[cfg(test)]
mod quiet_sizes;
#[cfg(test)]
mod receivers;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod saved;
#[cfg(test)]
mod signatures;
#[cfg(test)]
mod states;
#[cfg(test)]
mod strict;
#[cfg(test)]
mod support;
#[cfg(test)]
mod unreachable;
#[cfg(test)]
mod unseen;
#[cfg(test)]
mod ways;
#[cfg(test)]
mod webhooks;
#[cfg(test)]
mod why;
#[cfg(test)]
mod wire;
