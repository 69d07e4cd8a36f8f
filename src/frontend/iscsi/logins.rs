//! Connections that have not logged in yet: so many, and no more.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, Shutdown, TcpStream};

use parking_lot::Mutex;

/// At the most.
const MOST: usize = 64;

/// Those that there are, oldest first.
#[derive(Default)]
pub struct Logins(Mutex<VecDeque<Connection>>);

struct Connection {
    number: u64,
    origin: IpAddr,
    socket: TcpStream,
}

impl Logins {
    /// One has come. Where there are too many, one goes: of those from where most come the one that has been
    /// at it for longest. So a flood ends its own, and not those who do log in.
    pub fn begin(&self, number: u64, peer: IpAddr, socket: TcpStream) {
        let mut all = self.0.lock();
        if all.len() >= MOST
            && let Some(goes) = victim(&all).and_then(|at| all.remove(at))
        {
            // Its thread sees the end of it.
            let _ = goes.socket.shutdown(Shutdown::Both);
        }
        let origin = origin(peer);
        all.push_back(Connection {
            number,
            origin,
            socket,
        });
    }

    /// It has logged in, or gone.
    pub fn end(&self, number: u64) {
        self.0.lock().retain(|one| one.number != number);
    }

    /// None of them will.
    pub fn close(&self) {
        for one in self.0.lock().drain(..) {
            let _ = one.socket.shutdown(Shutdown::Both);
        }
    }
}

fn victim(all: &VecDeque<Connection>) -> Option<usize> {
    let count = |origin: IpAddr| all.iter().filter(|one| one.origin == origin).count();
    let counts: Vec<usize> = all.iter().map(|one| count(one.origin)).collect();
    let most = counts.iter().max()?;
    counts.iter().position(|count| count == most)
}

/// Where a peer is: of IPv6 the network, since a machine has as many addresses there as it wants.
fn origin(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_network_are_one_place() {
        let of = |text: &str| origin(text.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::3"), of("2001:db8:1:2:ffff::"));
        assert_ne!(of("2001:db8:1:2::3"), of("2001:db8:1:3::3"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
