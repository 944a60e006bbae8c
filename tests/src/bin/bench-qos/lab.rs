//! Two pods, each with a slice router of its own, one uplink, and what is beyond it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use slicewire_core::qos::Rate;
use slicewire_core::qos::shape::{Limit, Shape};
use slicewire_kernel::{
    Address, Kernel, LinkEnd, Neighbour, Network as _, NextHops, Ns, NsId, Op, Route, Shaper,
};

/// Way out of a router.
const WAY: &str = "swvx";
const MTU: u32 = 1_400;
/// Bytes of a full TCP segment's payload, of a datagram's, and of their frames.
const SEGMENT: f64 = 1_348.0;
const DATAGRAM: f64 = 1_372.0;
const FRAME: f64 = 1_414.0;
/// Where the servers are.
const SERVER: &str = "10.90.0.1";

/// Both slices.
pub(crate) struct Lab {
    prefix: String,
    names: Vec<&'static str>,
    pub(crate) shapers: [Shaper; 2],
}

/// A server and what it measures.
pub(crate) struct Flow {
    child: std::process::Child,
    server: std::process::Child,
    payload: f64,
}

impl Lab {
    pub(crate) async fn new() -> Result<Self> {
        let prefix = format!("swq{}-", std::process::id());
        let names = vec!["ra", "rb", "pa", "pb", "up", "far"];
        let kernel = Kernel::new();
        let mut made = Vec::new();
        for name in &names {
            made.push(kernel.create(&format!("{prefix}{name}")).await?);
        }
        let [ra, rb, pa, pb, up, far] = made.as_slice() else { anyhow::bail!("no namespaces") };
        for forwards in [ra, rb, up] {
            let (key, value) = ("ipv4/ip_forward".to_owned(), "1".to_owned());
            forwards.apply(vec![Op::SetSysctl { key, value }]).await?;
        }
        let mut shapers = Vec::new();
        for (n, (router, pod)) in [(ra, pa), (rb, pb)].into_iter().enumerate() {
            let address = format!("10.80.0.{}", n + 1);
            wire((router, "swp1"), (pod, "slice0"), &[&address], &["0.0.0.0/0"]).await?;
            wire((up, &format!("swr{n}")), (router, WAY), &[&address], &["10.90.0.0/24"]).await?;
            shapers.push(Shaper::open(router.id()).await?);
        }
        wire((up, "swup"), (far, "eth0"), &[SERVER], &["0.0.0.0/0"]).await?;
        let own = Address::new("eth0", format!("{SERVER}/32").parse()?);
        far.apply(vec![Op::ReplaceAddress(own)]).await?;
        let shapers: [Shaper; 2] =
            shapers.try_into().map_err(|_| anyhow::anyhow!("two routers are needed"))?;
        Ok(Self { prefix, names, shapers })
    }

    pub(crate) async fn remove(self) -> Result<()> {
        drop(self.shapers);
        for name in &self.names {
            Kernel::new().delete(&format!("{}{name}", self.prefix)).await?;
        }
        Ok(())
    }

    /// The uplink's rate in Mbit/s, with half a second's queue; none: as fast as it goes.
    pub(crate) fn uplink(&self, rate: Option<u64>) -> Result<()> {
        let line = match rate {
            Some(rate) => format!(
                "tc qdisc replace dev swup root tbf rate {rate}mbit burst 64k limit {}",
                rate * 62_500
            ),
            None => "tc qdisc del dev swup root 2>/dev/null; true".to_owned(),
        };
        let mut command = self.inside("up");
        ensure!(command.args(["sh", "-c", &line]).status()?.success(), "{line} failed");
        Ok(())
    }

    /// A slice's shaping with one pod; none: not shaped.
    pub(crate) async fn shape(&self, slice: usize, rate: Option<Rate>) -> Result<()> {
        let shaper = &self.shapers[slice];
        let Some(rate) = rate else { return Ok(shaper.remove().await?) };
        let limit = Limit { rate, burst: None };
        let pod: IpAddr = format!("10.80.0.{}", slice + 1).parse()?;
        let shape = Shape {
            devices: BTreeSet::from([WAY.to_owned()]),
            leaving: limit,
            arriving: limit,
            pod_ceiling: None,
            pods: [(0x10, BTreeSet::from([pod]))].into(),
        };
        Ok(shaper.apply(&shape).await?)
    }

    fn inside(&self, name: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}{name}", self.prefix));
        command
    }

    /// Starts traffic from a slice's pod: TCP with so many streams, or with 0 UDP of a rate.
    pub(crate) fn flow(&self, slice: usize, streams: usize, seconds: u64) -> Result<Flow> {
        let port = (5_201 + slice).to_string();
        let server = self
            .inside("far")
            .args(["iperf3", "-s", "-1", "-p", &port])
            .stdout(Stdio::null())
            .spawn()?;
        thread::sleep(Duration::from_millis(300));
        let (time, number) = (seconds.to_string(), streams.to_string());
        let mut command = self.inside(["pa", "pb"][slice]);
        command.args(["iperf3", "-c", SERVER, "-p", &port, "-t", &time, "-J"]);
        let payload = if streams == 0 {
            command.args(["-u", "-b", "150M", "-l", "1372"]);
            DATAGRAM
        } else {
            // Windows grow in the first second. Of datagrams iperf3 would count that one, too.
            command.args(["-P", &number, "-O", "1"]);
            SEGMENT
        };
        Ok(Flow { child: command.stdout(Stdio::piped()).spawn()?, server, payload })
    }

    /// The median round trip of small packets of a slice's pod, in microseconds.
    pub(crate) fn round_trip(&self, slice: usize, seconds: u64) -> Result<f64> {
        let count = (seconds * 50).to_string();
        let output = self
            .inside(["pa", "pb"][slice])
            .args(["ping", "-i", "0.02", "-c", &count, SERVER])
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let times = text.lines().filter_map(|l| l.split_once("time=")?.1.split(' ').next());
        let times: Vec<f64> = times.filter_map(|t| t.parse().ok()).collect();
        ensure!(times.len() as u64 + 2 >= seconds * 50, "pings were lost: {text}");
        slicewire_bench_report::median(&times).map(|ms| ms * 1_000.0).context("no ping came back")
    }
}

impl Flow {
    /// Waits for the end; Mbit/s of frames that arrived.
    pub(crate) fn rate(mut self) -> Result<f64> {
        let output = self.child.wait_with_output()?;
        if !output.status.success() {
            self.server.kill()?;
        }
        self.server.wait()?;
        let told: Value = serde_json::from_slice(&output.stdout)?;
        let sum = &told["end"]["sum_received"];
        let bits = sum["bits_per_second"].as_f64();
        let bits = bits.with_context(|| format!("iperf3: {}", told["error"]))?;
        Ok(bits / 1e6 * FRAME / self.payload)
    }
}

/// A cable; routes to `addresses` at its first end, to `nets` at its second, which has the first
/// address where it is a pod's.
async fn wire(
    (here, port): (&Ns, &str),
    (there, nic): (&Ns, &str),
    addresses: &[&str],
    nets: &[&str],
) -> Result<()> {
    let end = |name: &str| LinkEnd::new(name).mtu(MTU).up();
    let add = Op::AddVeth { end: end(port), peer_ns: there.id().clone(), peer: end(nic) };
    let place = Op::AddFilterPlace { dev: nic.to_owned() };
    here.sequence(vec![add]).await?;
    there.sequence(vec![place]).await?;
    let mac = |ns: NsId, dev: String| async move {
        let link = Kernel::new().open(&ns).await?.link(&dev).await?;
        link.and_then(|l| l.mac).context("no device")
    };
    let near = mac(here.id().clone(), port.to_owned()).await?;
    let far = mac(there.id().clone(), nic.to_owned()).await?;
    let mut ops = Vec::new();
    for address in addresses {
        let addr: IpAddr = address.parse()?;
        ops.push(Op::ReplaceRoute(Route::new(addr.into(), NextHops::dev(port))));
        ops.push(Op::ReplaceNeighbour(Neighbour { dev: port.to_owned(), addr, mac: far }));
    }
    here.sequence(ops).await?;
    let via: IpAddr = "169.254.1.1".parse()?;
    let mut ops =
        vec![Op::ReplaceNeighbour(Neighbour { dev: nic.to_owned(), addr: via, mac: near })];
    if nic == "slice0" {
        ops.push(Op::ReplaceAddress(Address::host(nic, addresses[0].parse()?)));
    }
    for net in nets {
        ops.push(Op::ReplaceRoute(Route::new(net.parse()?, NextHops::via(via, nic))));
    }
    Ok(there.sequence(ops).await?)
}
