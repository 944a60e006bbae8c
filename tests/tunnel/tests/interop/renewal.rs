//! New keys for gateways as they are in clusters, one of them with the kernel's WireGuard.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use slicewire_tunnel_tests::{
    device::Implementation::{Ours, OursInGuest},
    host::Host,
    keys::{KeyPair, preshared},
    lab::{
        Family::V4,
        Lab,
        Side::{self, Left, Right},
        socket,
    },
    peers,
    traffic::{Answers, Pings, ping},
};

const MTU: u32 = 1420;
/// Ports of even and of odd generations of keys; the lab's own devices have another.
const PORTS: [u16; 2] = [51900, 51901];
/// Devices of even and of odd generations.
const DEVICES: [&str; 2] = ["swwg0", "swwg1"];
/// So many pings, at most one every millisecond, make a series.
const SERIES: u32 = 2000;

/// A gateway of a slice's cluster, with its plan and its keys in files.
struct Gateway<'a> {
    host: &'a Host,
    program: String,
    directory: String,
    cluster: &'static str,
    outer: String,
    inner: &'static str,
    prefix: &'static str,
    /// By generation.
    keys: [KeyPair; 2],
}

impl<'a> Gateway<'a> {
    fn new(lab: &'a Lab, side: Side) -> Result<Self> {
        let host = &lab.end(side).host;
        let (cluster, inner, prefix) = match side {
            Left => ("west", "10.98.64.1", "10.98.64.0/18"),
            Right => ("east", "10.98.0.1", "10.98.0.0/18"),
        };
        let program = match host {
            Host::Namespace(_) => peers::slice_gateway()?.path.display().to_string(),
            Host::Guest(_) => "slice-gateway".to_owned(),
        };
        Ok(Self {
            host,
            program,
            directory: host.sh("mktemp -d")?.trim().to_owned(),
            cluster,
            outer: side.outer(V4, 2),
            inner,
            prefix,
            keys: [KeyPair::generate(), KeyPair::generate()],
        })
    }

    /// Gives it the plan: a generation of keys, and the next one beside it or not.
    fn plan(&self, generation: usize, next: Option<usize>, far: &Self) -> Result<()> {
        let meets = |generation: usize| {
            json!({
                "publicKey": far.keys[generation].public(),
                "endpoints": [socket(&far.outer, PORTS[generation])],
            })
        };
        let mut tunnel = meets(generation);
        tunnel["cluster"] = json!(far.cluster);
        tunnel["addresses"] = json!([far.inner]);
        tunnel["prefixes"] = json!([far.prefix]);
        tunnel["next"] = json!(next.map(meets));
        let plan = json!({
            "slice": "blue", "cluster": self.cluster, "prefixes": ["10.98.0.0/16"], "mtu": MTU,
            "generation": generation, "nextGeneration": next,
            "lanes": [{"lane": 0, "addresses": [self.inner], "tunnels": [tunnel]}],
        });
        self.sh(&format!("echo '{plan}' > new; mv new plan")).map(drop)
    }

    /// Gives it the private key of a generation, and the key that both ends share from the second on.
    fn key(&self, generation: usize, far: &Self, preshared: &str) -> Result<()> {
        let own = &self.keys[generation];
        let (private, public, other) = (own.private(), own.public(), far.keys[generation].public());
        let name = match generation {
            0 => return self.sh(&format!("echo {private} > lane-0")).map(drop),
            _ => format!("0-generation-{generation}"),
        };
        self.sh(&format!(
            "echo {public} {other} {preshared} > psk-{name}-{}; echo {private} > lane-{name}",
            far.cluster
        ))
        .map(drop)
    }

    fn start(&self) -> Result<()> {
        let Self { program, directory: at, inner, .. } = self;
        let [port, _] = PORTS;
        self.sh(&format!(
            "ip addr add {inner}/32 dev lo;
             {program} kubernetes --slice=blue --lane=0 --keys={at} --plan={at}/plan \
             --socket={at}/socket --listen-port={port} > log 2>&1 < /dev/null & echo $! > pid"
        ))
        .map(drop)
    }

    /// The way to the other end, over the device of a generation; another one beside it with `metric`.
    fn route(&self, how: &str, generation: usize, far: &Self, metric: &str) -> Result<()> {
        let (to, own, device) = (far.prefix, self.inner, DEVICES[generation]);
        self.sh(&format!("ip route {how} {to} dev {device} src {own} {metric}")).map(drop)
    }

    /// Waits for a generation's device: as the kernel's tells, with this key in it; the engine's tells
    /// only that it is there, and handshakes tell the rest.
    fn device(&self, generation: usize, key: &str) -> Result<()> {
        let device = DEVICES[generation];
        let holds = match self.host {
            Host::Guest(_) => format!("wg show {device} dump | grep -qF {key}"),
            Host::Namespace(_) => format!("ip link show {device} >/dev/null 2>&1"),
        };
        self.until(device, &holds)
    }

    /// Waits for a shell condition.
    fn until(&self, what: &str, holds: &str) -> Result<()> {
        self.sh(&format!(
            "for i in $(seq 150); do if {holds}; then exit 0; fi; usleep 200000 2>/dev/null || sleep 0.2; done;
             cat log; exit 1"
        ))
        .with_context(|| format!("{}: waited in vain for {what}", self.cluster))
        .map(drop)
    }

    fn sh(&self, script: &str) -> Result<String> {
        self.host.sh(&format!("( set -e; cd {}; {script} )", self.directory))
    }
}

impl Drop for Gateway<'_> {
    fn drop(&mut self) {
        let end =
            "kill $(cat pid); for i in $(seq 50); do kill -0 $(cat pid) || break; sleep 0.1; done";
        drop(self.sh(&format!("{end}; rm -r {}", self.directory)));
    }
}

/// The next generation of keys comes on a device of its own, the kernel's here and the engine's there;
/// traffic changes over while both are there, and the first goes. No packet is lost or comes twice.
#[test]
fn the_kernels_device_changes_its_keys_under_traffic() -> Result<()> {
    let lab = Lab::new(Ours, OursInGuest, MTU)?;
    let (west, east) = (Gateway::new(&lab, Left)?, Gateway::new(&lab, Right)?);
    let both = [(&west, &east), (&east, &west)];
    for (own, far) in both {
        own.key(0, far, "")?;
        own.plan(0, None, far)?;
        own.start()?;
    }
    for (own, far) in both {
        own.device(0, &far.keys[0].public())?;
        own.route("add", 0, far, "")?;
    }
    let link = east.host.sh("ip -d link show swwg0")?;
    ensure!(link.contains("wireguard"), "not the kernel's: {link}");
    west.until("a tunnel", &format!("ping -c 1 -W 1 {} >/dev/null", east.inner))?;

    let done = AtomicBool::new(false);
    let answers = thread::scope(|scope| {
        let pinging = scope.spawn(|| {
            let mut all = Answers { sent: 0, received: 0, duplicates: 0 };
            // Once more after the end.
            let mut last = false;
            while !last {
                last = done.load(Ordering::Relaxed);
                let some = ping(west.host, east.inner, Pings::many(SERIES, 1))?;
                all.sent += some.sent;
                all.received += some.received;
                all.duplicates += some.duplicates;
            }
            Ok::<_, anyhow::Error>(all)
        });
        let renewed = renew(both);
        done.store(true, Ordering::Relaxed);
        let answers = pinging.join().map_err(|_| anyhow!("pinging panicked"))?;
        renewed?;
        answers
    })?;
    println!("{answers:?}");
    ensure!(answers.received == answers.sent && answers.duplicates == 0, "{answers:?}");
    Ok(())
}

fn renew(both: [(&Gateway<'_>, &Gateway<'_>); 2]) -> Result<()> {
    let preshared = preshared();
    for (own, far) in both {
        own.key(1, far, &preshared)?;
        own.plan(0, Some(1), far)?;
    }
    for (own, far) in both {
        own.device(1, &preshared)?;
        own.device(0, &far.keys[0].public())?;
        own.route("add", 1, far, "metric 100")?;
    }
    let [(west, east), _] = both;
    let link = east.host.sh("ip -d link show swwg1")?;
    ensure!(link.contains("wireguard"), "not the kernel's: {link}");
    // As router-sidecars do: nobody changes over before there is a session of the new keys. The other
    // end answers through the old device yet, which ping does not hear.
    west.sh(&format!("ping -I swwg1 -c 5 -i 0.2 -W 1 {} || true", east.inner))?;
    let session = "wg show swwg1 latest-handshakes | grep -q '[1-9][0-9]*$'";
    east.until("a session of the new keys", session)?;
    for (own, far) in both {
        own.route("replace", 1, far, "")?;
    }
    // What was on its way has arrived.
    thread::sleep(Duration::from_secs(2));
    for (own, far) in both {
        own.sh("rm lane-0")?;
        own.plan(1, None, far)?;
    }
    for (own, _) in both {
        own.until("the first device to go", "! ip link show swwg0 >/dev/null 2>&1")?;
        own.device(1, &preshared)?;
    }
    Ok(())
}
