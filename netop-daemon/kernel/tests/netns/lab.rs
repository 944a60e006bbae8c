//! Namespaces for one test, with unique names, gone when the test is.

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use slicewire_kernel::{Kernel, Network as _, Ns, NsId};

/// A test's namespaces.
pub(crate) struct Lab {
    prefix: String,
    made: Vec<String>,
}

impl Lab {
    /// A lab for the test of this name, at most a few bytes long.
    pub(crate) fn new(test: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "network namespaces need root");
        Self { prefix: format!("swk{}-{test}-", std::process::id()), made: Vec::new() }
    }

    /// Full name of one of the lab's namespaces.
    pub(crate) fn name(&self, short: &str) -> String {
        format!("{}{short}", self.prefix)
    }

    /// Where it is.
    pub(crate) fn id(&self, short: &str) -> NsId {
        NsId::named(&self.name(short))
    }

    /// Makes a namespace.
    pub(crate) async fn ns(&mut self, short: &str) -> Ns {
        let name = self.name(short);
        self.made.push(name.clone());
        Kernel::new().create(&name).await.unwrap()
    }

    /// Names of the lab's namespaces that exist.
    pub(crate) async fn existing(&self) -> Vec<String> {
        Kernel::new().list(&self.prefix).await.unwrap().into_iter().collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.made {
            let path = format!("/run/netns/{name}");
            let _ = nix::mount::umount2(path.as_str(), nix::mount::MntFlags::MNT_DETACH);
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Runs something inside a namespace.
pub(crate) fn inside<T: Send + 'static>(
    id: &NsId,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let NsId::Path(path) = id.clone() else { return work() };
    std::thread::spawn(move || {
        setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
        work()
    })
    .join()
    .unwrap()
}

/// A UDP socket in a namespace.
pub(crate) fn udp(id: &NsId, addr: IpAddr) -> UdpSocket {
    let socket = inside(id, move || UdpSocket::bind(SocketAddr::new(addr, 0))).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(800))).unwrap();
    socket
}

/// Sends a datagram there and one back; the source address the far side saw. The way there is
/// tried a few times: a device that has just come up may not find its neighbours yet.
pub(crate) fn round_trip(from: &UdpSocket, to: &UdpSocket) -> io::Result<IpAddr> {
    let mut buffer = [0; 2048];
    let target = to.local_addr()?;
    let mut there = || {
        from.send_to(&[7; 1200], target)?;
        to.recv_from(&mut buffer)
    };
    let (_, source) = (0..9).find_map(|_| there().ok()).map_or_else(&mut there, Ok)?;
    to.send_to(&[8; 1200], source)?;
    from.recv_from(&mut buffer)?;
    Ok(source.ip())
}

/// An address from its text.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A prefix from its text.
pub(crate) fn net<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
    text.parse().unwrap()
}
