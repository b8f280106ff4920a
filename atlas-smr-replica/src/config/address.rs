//! Where a replica listens: a host and a port.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use thiserror::Error;

/// An IP address or host name with a port other than 0, such as `127.0.0.1:7100`,
/// `[::1]:7100` or `replica-0.example.org:7100`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(String);

/// Text that is no [`Address`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("expected {}", Address::EXPECTED)]
pub struct AddressError;

impl Address {
    /// What an address looks like, for messages.
    pub const EXPECTED: &'static str = "a host and a port, such as `127.0.0.1:7100`";

    /// The address as it was written, in lower case; [`ToSocketAddrs`] understands it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first IP address that it stands for. Asks the resolver when it is a host name, and then
    /// blocks.
    ///
    /// # Errors
    /// When the resolver does not know the name.
    pub fn resolve(&self) -> std::io::Result<SocketAddr> {
        let unknown = || std::io::Error::other("the name stands for no address");
        self.0.to_socket_addrs()?.next().ok_or_else(unknown)
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self(address.to_string())
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            let usable = address.port() != 0;
            return usable.then(|| address.into()).ok_or(AddressError);
        }
        let (host, port) = text.rsplit_once(':').ok_or(AddressError)?;
        let port: u16 = port.parse().map_err(|_| AddressError)?;
        // All digits and dots: an IP address gone wrong, not a name.
        let numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
        if port == 0 || numeric || host.len() > 253 || !host.split('.').all(is_label) {
            return Err(AddressError);
        }
        Ok(Self(format!("{}:{port}", host.to_ascii_lowercase())))
    }
}

fn is_label(label: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=63).contains(&label.len()) && label.chars().all(allowed) && !label.starts_with('-')
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ip_addresses_and_names_with_a_port_are_addresses_and_nothing_else_is() {
        for good in [
            "127.0.0.1:1",
            "[::1]:7100",
            "localhost:80",
            "a-b.c_d.org:65535",
        ] {
            assert_eq!(good.parse::<Address>().unwrap().as_str(), good);
        }
        assert_eq!("Host:07".parse::<Address>().unwrap().as_str(), "host:7");
        for bad in [
            "",
            ":",
            "127.0.0.1",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "300.0.0.1:80",
            "host:",
            ":80",
            "a b:80",
            "::1:80",
            "-a:80",
            "a..b:80",
            "host:0",
            "http://host:80",
        ] {
            assert_eq!(bad.parse::<Address>(), Err(AddressError), "{bad}");
        }
        let resolved = "127.0.0.1:7100".parse::<Address>().unwrap().resolve();
        assert_eq!(resolved.unwrap(), SocketAddr::from(([127, 0, 0, 1], 7100)));
    }
}
