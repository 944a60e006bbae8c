//! A slice router with two pods, in network namespaces of their own, and what is measured through it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use slicewire_bench_report::median;
use slicewire_kernel::{
    Address, Filter, Kernel, LinkChange, LinkEnd, Mac, Neighbour, Network as _, NextHops, Ns, NsId,
    Op, Route,
};

use super::netns::Netns;

const ROUTER_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// What pods reach through the router.
const NETS: [(&str, &str); 2] = [("169.254.1.1", "10.0.0.0/8"), ("fe80::1", "fd77::/48")];
/// Where streams go.
pub const STREAM_PORT: u16 = 5001;
/// Where single bytes come back from.
pub const ECHO_PORT: u16 = 5002;
/// No answer of a pod takes longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// A pod at the router.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its device in the router.
    pub device: String,
    /// Its own hardware address.
    pub mac: [u8; 6],
    /// One of each family.
    pub addresses: [IpAddr; 2],
}

/// A router and two pods: a client and a server. They are there until [`remove`](Self::remove).
pub struct Lab {
    names: [String; 3],
    router: Ns,
    /// The router's packet rules.
    pub filter: Filter,
    pods: [Netns; 2],
}

impl Lab {
    /// Makes them; one of a name at a time.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn new(name: &str, places: [Place; 2]) -> Result<Self> {
        let names = ["r", "a", "b"].map(|n| format!("swbench-{name}{n}-{}", std::process::id()));
        let kernel = Kernel::new();
        let router = kernel.create(&names[0]).await?;
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            let (key, value) = (key.to_owned(), "1".to_owned());
            router.apply(vec![Op::SetSysctl { key, value }]).await?;
        }
        for (place, name) in places.iter().zip(&names[1..]) {
            let pod = kernel.create(name).await?;
            router.sequence(port(place, pod.id())).await?;
            pod.sequence(nic(place)?).await?;
        }
        let filter = Filter::open(router.id()).await?;
        let open = |name: &str| Netns::open(Path::new(&format!("/run/netns/{name}")));
        let pods = [open(&names[1])?, open(&names[2])?];
        Ok(Self { names, router, filter, pods })
    }

    /// Removes all of it.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn remove(self) -> Result<()> {
        let Self { names, router, filter, pods } = self;
        drop((router, filter, pods));
        for name in &names {
            Kernel::new().delete(name).await?;
        }
        Ok(())
    }

    /// Runs a shell's command in the router.
    ///
    /// # Errors
    /// It cannot be started, or fails.
    pub fn shell(&self, command: &str, input: &str) -> Result<()> {
        let net = format!("--net=/run/netns/{}", self.names[0]);
        let mut child = Command::new("nsenter")
            .args([net.as_str(), "sh", "-c", command])
            .stdin(Stdio::piped())
            .spawn()?;
        child.stdin.take().context("no input")?.write_all(input.as_bytes())?;
        ensure!(child.wait()?.success(), "{command} failed");
        Ok(())
    }

    fn iperf(&self, pod: usize, port: u16) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.names[pod + 1])).arg("iperf3");
        command.args(["-p", &port.to_string()]).stdout(Stdio::piped());
        command
    }

    /// One TCP stream from the client to `to`, which leads to the server's [`STREAM_PORT`]; Gbit/s.
    ///
    /// # Errors
    /// What iperf3 says.
    pub fn throughput(&self, to: SocketAddr, seconds: u64) -> Result<f64> {
        let mut server = self.iperf(1, STREAM_PORT).args(["-s", "-1"]).spawn()?;
        thread::sleep(Duration::from_millis(300));
        let (address, time) = (to.ip().to_string(), seconds.to_string());
        let client = self.iperf(0, to.port()).args(["-c", &address, "-t", &time, "-J"]).output()?;
        if !client.status.success() {
            server.kill()?;
        }
        server.wait()?;
        let told: serde_json::Value = serde_json::from_slice(&client.stdout)?;
        let bits = told["end"]["sum_received"]["bits_per_second"].as_f64();
        Ok(bits.with_context(|| format!("iperf3: {}", told["error"]))? / 1e9)
    }

    /// The median of a byte's way from the client to `to` and back, in microseconds. `to` leads to
    /// `server`, an address of the server with [`ECHO_PORT`].
    ///
    /// # Errors
    /// Some byte does not come back.
    pub fn round_trip(&self, to: SocketAddr, server: IpAddr, time: Duration) -> Result<f64> {
        self.echoing(server, || bytes(to, time))
    }

    /// Connections a second from the client to `to`, one after the other, each carrying a byte there
    /// and back. `to` leads to `server`, an address of the server with [`ECHO_PORT`].
    ///
    /// # Errors
    /// Some connection cannot be made.
    pub fn connections(&self, to: SocketAddr, server: IpAddr, time: Duration) -> Result<f64> {
        self.echoing(server, || connects(to, time))
    }

    /// Measures in the client while the server answers.
    fn echoing(&self, server: IpAddr, measure: impl FnOnce() -> Result<f64> + Send) -> Result<f64> {
        let server = SocketAddr::new(server, ECHO_PORT);
        let listener = self.pods[1].run(|| TcpListener::bind(server))??;
        let echo = thread::spawn(move || serve(&listener));
        let measured = self.pods[0].run(measure)?;
        // The connection that ends it.
        self.pods[0].run(|| TcpStream::connect(server)?.write_all(&[0]))??;
        echo.join().map_err(|_| anyhow!("the server panicked"))??;
        measured
    }
}

/// Answers byte by byte, until a connection's first byte is zero.
fn serve(listener: &TcpListener) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        // A connection may end by a reset.
        while matches!(stream.read(&mut byte), Ok(1)) {
            if byte[0] == 0 {
                return Ok(());
            }
            stream.write_all(&byte)?;
        }
    }
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn bytes(to: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = connect(to)?;
    let mut trips = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < time {
        let start = Instant::now();
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
        trips.push(start.elapsed().as_secs_f64() * 1e6);
    }
    median(&trips).context("no round trip")
}

fn connects(to: SocketAddr, time: Duration) -> Result<f64> {
    let mut count = 0u32;
    let begin = Instant::now();
    while begin.elapsed() < time {
        let mut stream = connect(to)?;
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
        // Ended by a reset, which leaves nobody waiting with the port.
        setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

fn port(place: &Place, pod: &NsId) -> Vec<Op> {
    let (dev, mac) = (place.device.clone(), Mac(place.mac));
    let mut ops = vec![Op::AddVeth {
        end: LinkEnd::new(&dev).mac(ROUTER_MAC).up(),
        peer_ns: pod.clone(),
        peer: LinkEnd::new("slice0").mac(mac),
    }];
    for addr in place.addresses {
        ops.push(Op::ReplaceNeighbour(Neighbour { dev: dev.clone(), addr, mac }));
        ops.push(Op::ReplaceRoute(Route::new(addr.into(), NextHops::dev(&dev))));
    }
    ops
}

fn nic(place: &Place) -> Result<Vec<Op>> {
    let dev = "slice0";
    let change = LinkChange { up: Some(true), link_local: Some(false), ..LinkChange::default() };
    let mut ops = vec![Op::SetLink { dev: dev.to_owned(), change }];
    for (addr, (via, net)) in place.addresses.into_iter().zip(NETS) {
        let via = via.parse()?;
        ops.push(Op::ReplaceAddress(Address::new(dev, addr.into())));
        let neighbour = Neighbour { dev: dev.to_owned(), addr: via, mac: ROUTER_MAC };
        ops.push(Op::ReplaceNeighbour(neighbour));
        ops.push(Op::ReplaceRoute(Route::new(net.parse()?, NextHops::via(via, dev))));
    }
    Ok(ops)
}
