//! Addresses at which a cloud tells a machine who it is, credentials included. Nothing that a manifest
//! names is there, and a daemon that asked there for its author would hand over what the host may do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Those that are not link-local: of Azure, Alibaba, Oracle, and of AWS by IPv6.
const KNOWN: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Why nothing is asked of such an address, as it follows the name of its host.
pub const WHY: &str =
    "is where a cloud tells a machine its credentials: nothing is asked there for anybody";

/// Whether it is link-local, as the metadata service of most clouds, or known to be one.
pub fn is_metadata(address: IpAddr) -> bool {
    let address = address.to_canonical();
    KNOWN.contains(&address)
        || match address {
            IpAddr::V4(it) => it.is_link_local(),
            // A translator leads to the IPv4 address at its end.
            IpAddr::V6(it) if it.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
                let [.., a, b, c, d] = it.octets();
                is_metadata(IpAddr::from([a, b, c, d]))
            }
            IpAddr::V6(it) => it.is_unicast_link_local(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_services_of_clouds_are_known_however_they_are_written() {
        for (address, is_one) in [
            ("169.254.169.254", true),
            ("169.254.170.2", true),
            ("::ffff:169.254.169.254", true),
            ("64:ff9b::a9fe:a9fe", true),
            ("fe80::1", true),
            ("fd00:ec2::254", true),
            ("168.63.129.16", true),
            ("100.100.100.200", true),
            ("192.0.0.192", true),
            ("127.0.0.1", false),
            ("10.0.0.1", false),
            ("100.64.0.1", false),
            ("fd00::1", false),
            ("8.8.8.8", false),
        ] {
            assert_eq!(is_metadata(address.parse().unwrap()), is_one, "{address}");
        }
    }
}
