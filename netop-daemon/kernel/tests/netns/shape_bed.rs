//! near — router — far: a pod's namespace, a slice router that shapes what passes by its way out,
//! and everything beyond; and traffic over it.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use slicewire_core::qos::Rate;
use slicewire_core::qos::shape::{Limit, Shape};
use slicewire_kernel::{Address, LinkEnd, NextHops, Ns, NsId, Op, Route};

use crate::lab::{Lab, inside, ip, net};
use crate::two_pods_one_router::forwarding;

/// The way out of the router.
pub(crate) const WAY: &str = "swvx";
pub(crate) const MTU: u32 = 1_400;
/// Bytes of a full TCP segment's payload, and of its frame.
const PAYLOAD: f64 = 1_348.0;
const FRAME: f64 = 1_414.0;

/// Two pods at a router, and what is beyond its way out.
pub(crate) struct Bed {
    pub(crate) router: Ns,
    pub(crate) pods: Vec<(Ns, [IpAddr; 2])>,
    pub(crate) far: Ns,
}

/// Addresses beyond the way out.
pub(crate) const FAR: [&str; 2] = ["10.90.0.1", "fd90::1"];

impl Bed {
    pub(crate) async fn new(lab: &mut Lab, name: &str, pods: u8) -> Self {
        let far = lab.ns(&format!("{name}f")).await;
        Self::beside(lab, name, pods, far, "eth0").await
    }

    /// The same with what is beyond the way given, by a cable to its device of this name.
    pub(crate) async fn beside(lab: &mut Lab, name: &str, pods: u8, far: Ns, nic: &str) -> Self {
        let router = lab.ns(&format!("{name}r")).await;
        router.apply(forwarding()).await.unwrap();
        wire(&router, WAY, &["10.90.0.254/32", "fd90::fffe/128"], &far, nic, &FAR).await;
        let mut made = Vec::new();
        for n in 1..=pods {
            let pod = lab.ns(&format!("{name}p{n}")).await;
            let addresses = [format!("10.80.0.{n}"), format!("fd80::{n}")];
            let own = addresses.each_ref().map(String::as_str);
            wire(&router, &format!("swp{n}"), &[], &pod, "slice0", &own).await;
            made.push((pod, addresses.map(|a| ip(&a))));
        }
        Self { router, pods: made, far }
    }

    /// A shape of the way out.
    pub(crate) fn shape(&self, rate: Rate) -> Shape {
        let limit = Limit { rate, burst: None };
        let numbered = self.pods.iter().zip(0x10_u16..);
        Shape {
            devices: BTreeSet::from([WAY.to_owned()]),
            leaving: limit,
            arriving: limit,
            pod_ceiling: None,
            pods: numbered.map(|((_, a), n)| (n, BTreeSet::from(*a))).collect(),
        }
    }
}

/// One uplink for several beds: what is beyond their ways passes a single device of this rate, with
/// a queue of half a second, to the namespace that is returned. It has the address [`BEYOND`].
pub(crate) async fn uplink(lab: &mut Lab, beds: &[&Bed], mbit: u64) -> Ns {
    let far = lab.ns("beyond").await;
    let near = beds[0].far.clone();
    near.apply(forwarding()).await.unwrap();
    wire(&near, "up", &[], &far, "eth0", &[BEYOND, "fd91::1"]).await;
    let line = format!("tbf rate {mbit}mbit burst 32k limit {}", mbit * 62_500);
    inside(near.id(), move || {
        let words: Vec<&str> = line.split(' ').collect();
        let shape = ["qdisc", "add", "dev", "up", "root"];
        std::process::Command::new("tc").args(shape).args(words).status()
    })
    .unwrap();
    far
}

/// An address beyond the uplink.
pub(crate) const BEYOND: &str = "10.91.0.1";

/// A cable between two namespaces, both ends up, addresses at the second, routes at both.
async fn wire(router: &Ns, port: &str, own: &[&str], other: &Ns, nic: &str, addresses: &[&str; 2]) {
    let add = Op::AddVeth {
        end: LinkEnd::new(port).mtu(MTU).up(),
        peer_ns: other.id().clone(),
        peer: LinkEnd::new(nic).mtu(MTU).up(),
    };
    let place = Op::AddFilterPlace { dev: port.to_owned() };
    router.sequence(vec![add, place]).await.unwrap();
    let mut here: Vec<Op> =
        own.iter().map(|a| Op::ReplaceAddress(Address::new(port, net(a)))).collect();
    let mut there = Vec::new();
    for address in addresses {
        here.push(Op::ReplaceRoute(Route::new(ip(address).into(), NextHops::dev(port))));
        there.push(Op::ReplaceAddress(Address::host(nic, ip(address))));
    }
    let routed = [("0.0.0.0/0", "169.254.1.1"), ("::/0", "fe80::1")];
    let mac = router.link(port).await.unwrap().unwrap().mac.unwrap();
    let pod_mac = other.link(nic).await.unwrap().unwrap().mac.unwrap();
    for (all, via) in routed {
        let dev = nic.to_owned();
        let gateway = slicewire_kernel::Neighbour { dev, addr: ip(via), mac };
        there.push(Op::ReplaceNeighbour(gateway));
        there.push(Op::ReplaceRoute(Route::new(net(all), NextHops::via(ip(via), nic))));
    }
    for address in addresses {
        let dev = port.to_owned();
        let pod = slicewire_kernel::Neighbour { dev, addr: ip(address), mac: pod_mac };
        here.push(Op::ReplaceNeighbour(pod));
    }
    other.sequence(there).await.unwrap();
    router.sequence(here).await.unwrap();
}

/// TCP streams that send all they can until dropped.
pub(crate) struct Streams {
    received: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Streams {
    /// So many streams from one namespace to an address in another.
    pub(crate) fn start(from: &NsId, to: &NsId, address: IpAddr, count: usize) -> Self {
        let listener = inside(to, move || TcpListener::bind((address, 0))).unwrap();
        let target = listener.local_addr().unwrap();
        let received = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for _ in 0..count {
            let mut client = inside(from, move || TcpStream::connect(target)).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            client.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let ended = stop.clone();
            threads.push(std::thread::spawn(move || {
                let block = vec![0; 64 << 10];
                while !ended.load(Ordering::Relaxed) {
                    let _ = client.write(&block);
                }
            }));
            let (ended, counter) = (stop.clone(), received.clone());
            threads.push(std::thread::spawn(move || {
                let mut block = vec![0; 256 << 10];
                while !ended.load(Ordering::Relaxed) {
                    let got = server.read(&mut block).unwrap_or_default();
                    counter.fetch_add(got as u64, Ordering::Relaxed);
                }
            }));
        }
        Self { received, stop, threads }
    }

    /// Mbit/s of frames over some time from now.
    pub(crate) fn rate(&self, time: Duration) -> f64 {
        let (begun, before) = (Instant::now(), self.received.load(Ordering::Relaxed));
        std::thread::sleep(time);
        let bytes = self.received.load(Ordering::Relaxed) - before;
        bytes as f64 * 8.0 / 1e6 / begun.elapsed().as_secs_f64() * FRAME / PAYLOAD
    }

    /// Payload bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// The rate of frames, in Mbit/s, that so many payload bytes in some time are.
pub(crate) fn frames(bytes: u64, time: Duration) -> f64 {
    bytes as f64 * 8.0 / 1e6 / time.as_secs_f64() * FRAME / PAYLOAD
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Sends datagrams of 1,300 bytes at a rate for some time; Mbit/s of frames that arrived.
pub(crate) fn udp_rate(from: &NsId, to: &NsId, address: IpAddr, rate: f64, time: Duration) -> f64 {
    let target = inside(to, move || UdpSocket::bind((address, 0))).unwrap();
    target.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let at: SocketAddr = target.local_addr().unwrap();
    let any: IpAddr = if address.is_ipv4() { ip("0.0.0.0") } else { ip("::") };
    let sender = inside(from, move || UdpSocket::bind((any, 0))).unwrap();
    let sending = std::thread::spawn(move || {
        let (begun, mut sent) = (Instant::now(), 0.0);
        while begun.elapsed() < time {
            while sent < begun.elapsed().as_secs_f64() * rate * 1e6 / 8.0 {
                let _ = sender.send_to(&[1; 1_300], at);
                sent += 1_300.0;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    });
    let mut buffer = [0; 2_048];
    let header = if address.is_ipv4() { 42 } else { 62 };
    let (mut bytes, begun) = (0, Instant::now());
    // The first packets may all pass at once; the last come when the sender has ended.
    while begun.elapsed() < time {
        if let Ok(length) = target.recv(&mut buffer) {
            bytes += length + header;
        }
    }
    let took = begun.elapsed();
    sending.join().unwrap();
    bytes as f64 * 8.0 / 1e6 / took.as_secs_f64()
}

/// The median round-trip time of small datagrams, answered in the other namespace.
pub(crate) fn round_trips(from: &NsId, to: &NsId, address: IpAddr, count: usize) -> Duration {
    let server = inside(to, move || UdpSocket::bind((address, 0))).unwrap();
    let at = server.local_addr().unwrap();
    let any: IpAddr = if address.is_ipv4() { ip("0.0.0.0") } else { ip("::") };
    let client = inside(from, move || UdpSocket::bind((any, 0))).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(1_500))).unwrap();
    let answering = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        for _ in 0..count {
            let Ok((length, from)) = server.recv_from(&mut buffer) else { return };
            let _ = server.send_to(&buffer[..length], from);
        }
    });
    let mut times = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        client.send_to(&[3; 32], at).unwrap();
        let answered = client.recv(&mut [0; 64]).is_ok();
        times.push(if answered { begun.elapsed() } else { Duration::from_secs(1) });
        std::thread::sleep(Duration::from_millis(5));
    }
    answering.join().unwrap();
    times.sort();
    times[times.len() / 2]
}
