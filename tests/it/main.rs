//! The integration tests: the real binary, held to what it promises on the outside, with the real
//! registry on one side and a raw socket on the other.
//!
//! `make test` installs the programs they need: `docker-registry`, `skopeo` and `htpasswd`.

#[cfg(test)]
mod harness;
#[cfg(test)]
mod support;
