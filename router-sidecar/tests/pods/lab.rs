//! Two gateway pods as network namespaces, with everything around them that a cluster has.
//!
//! ```text
//!  app ─ router-east ── slice0 east eth0 ── wan ── eth0 west slice0 ── router-west ─ app
//!        10.20.0.100          │ swwg0 ═════ tunnel ═════ swwg0 │        10.20.64.100
//! ```

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use slicewire_core::gateway::Routes;
use slicewire_rpc::gateway::v1::WatchRoutesRequest;
use slicewire_rpc::gateway::v1::route_service_client::RouteServiceClient;
use slicewire_rpc::tls::{AUTHORITIES, CERTIFICATE, KEY};
use tonic::transport::Endpoint;

use crate::authority::Authority;

/// One side's fixed values; names differ in every field so that swaps are caught.
pub(crate) struct Side {
    /// The pod's.
    pub(crate) name: &'static str,
    pub(crate) cluster: &'static str,
    pub(crate) lane: u16,
    pub(crate) private_key: &'static str,
    pub(crate) public_key: &'static str,
    pub(crate) wan: &'static str,
    pub(crate) device: [&'static str; 2],
    pub(crate) nic: [&'static str; 2],
    pub(crate) app: [&'static str; 2],
    pub(crate) prefixes: [&'static str; 2],
}

pub(crate) const EAST: Side = Side {
    name: "east",
    cluster: "east",
    lane: 0,
    private_key: "WIuGiR3nW0rqoJuYmmu8f5lxd9L6WsHJO/eb8nn4DV0=",
    public_key: "3zyoCvXIH3gxHLtz9ZgiXwgtccRnhj60MnH8zscFMlY=",
    wan: "198.51.100.2",
    device: ["10.20.0.1", "fd00:20::1"],
    nic: ["10.20.0.66", "fd00:20::66"],
    app: ["10.20.0.100", "fd00:20::100"],
    prefixes: ["10.20.0.0/18", "fd00:20::/64"],
};

pub(crate) const WEST: Side = Side {
    name: "west",
    cluster: "west",
    lane: 0,
    private_key: "AKzPy+stsHGOKlJ+CL4SVcDwXiygy5bjv9hDgYv0GEw=",
    public_key: "ERgPG8Xbnt7Uc/M4wCVzoWXbETkuQJxhUtRtJ6I1Rmg=",
    wan: "198.51.100.3",
    device: ["10.20.64.1", "fd00:20:0:1::1"],
    nic: ["10.20.64.66", "fd00:20:0:1::66"],
    app: ["10.20.64.100", "fd00:20:0:1::100"],
    prefixes: ["10.20.64.0/18", "fd00:20:0:1::/64"],
};

/// Every pod there may be.
const PODS: [&str; 4] = ["east", "west", "east1", "west1"];

/// The namespaces; gone, with what runs in them, when dropped.
pub(crate) struct Lab {
    tag: String,
    dir: tempfile::TempDir,
    authority: Authority,
    running: Vec<(String, Child)>,
}

impl Lab {
    pub(crate) fn new(what: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "network namespaces need root");
        let tag = format!("swside{}{what}", std::process::id());
        let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
        let lab = Self { tag, dir, authority, running: Vec::new() };
        run(&format!("ip netns add {}", lab.ns("wan")));
        lab.ip("wan", "link set lo up");
        lab.ip("wan", "link add br0 type bridge");
        lab.ip("wan", "addr add 198.51.100.1/24 dev br0");
        lab.ip("wan", "link set br0 up");
        for side in [&EAST, &WEST] {
            lab.pod(side);
        }
        lab
    }

    pub(crate) fn ns(&self, name: &str) -> String {
        format!("{}-{name}", self.tag)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `ip` in a namespace.
    pub(crate) fn ip(&self, ns: &str, args: &str) {
        run(&format!("ip -n {} {args}", self.ns(ns)));
    }

    /// Runs a program in a namespace; tells whether it succeeded.
    pub(crate) fn try_in(&self, ns: &str, command: &str) -> bool {
        try_run(&format!("ip netns exec {} {command}", self.ns(ns))).0
    }

    /// Starts a program in a namespace, with a place for what it prints.
    pub(crate) fn begin(&self, ns: &str, command: &str, output: impl Into<Stdio>) -> Child {
        let line = format!("ip netns exec {} {command}", self.ns(ns));
        let mut words = line.split_whitespace();
        let mut program = Command::new(words.next().unwrap());
        program.args(words).stdout(output).spawn().unwrap()
    }

    /// Runs a program in a namespace; returns what it printed.
    pub(crate) fn read_in(&self, ns: &str, command: &str) -> String {
        let (_, output) = try_run(&format!("ip netns exec {} {command}", self.ns(ns)));
        output
    }

    /// Makes a gateway's pod with its network, its key and its certificate.
    pub(crate) fn pod(&self, side: &Side) {
        let (pod, bridge) = (side.name, self.ns("wan"));
        run(&format!("ip netns add {}", self.ns(pod)));
        self.ip(pod, "link set lo up");
        self.ip(pod, &format!("link add eth0 type veth peer name {pod} netns {bridge}"));
        self.ip("wan", &format!("link set {pod} master br0 up"));
        self.ip(pod, &format!("addr add {}/24 dev eth0", side.wan));
        self.ip(pod, "link set eth0 up");
        self.ip(pod, "route add default via 198.51.100.1");
        // As on nodes whose distribution sets it, until the pod gets its NIC.
        assert!(self.try_in(pod, "sysctl -qw net.ipv4.conf.all.rp_filter=1"));
        std::fs::create_dir_all(self.path(pod)).unwrap();
        let key = format!("lane-{}", side.lane);
        std::fs::write(self.path(pod).join(key), side.private_key).unwrap();
        self.authority.gateway(&self.path(pod));
    }

    /// Does what the node's daemon does: plugs the slice's NIC into a pod.
    pub(crate) fn attach(&self, side: &Side) {
        let (pod, router) = (side.name, format!("r{}", side.cluster));
        let (far, port) = (self.ns(pod), format!("port{}", side.lane));
        if side.lane == 0 {
            run(&format!("ip netns add {}", self.ns(&router)));
            self.ip(&router, "link set lo up");
        }
        self.ip(&router, &format!("link add {port} type veth peer name slice0 netns {far}"));
        self.ip(&router, &format!("link set {port} up"));
        self.ip(pod, "link set slice0 up");
        let mac = |ns: &str, dev: &str| {
            self.read_in(ns, &format!("cat /sys/class/net/{dev}/address")).trim().to_owned()
        };
        let (port_mac, nic) = (mac(&router, &port), mac(pod, "slice0"));
        for (i, (slice, gateway)) in
            [("10.20.0.0/16", "169.254.1.1"), ("fd00:20::/48", "fe80::1")].iter().enumerate()
        {
            let (address, app) = (side.nic[i], side.app[i]);
            let nodad = if i == 1 { "nodad" } else { "" };
            self.ip(pod, &format!("addr add {address} dev slice0 {nodad}"));
            self.ip(
                pod,
                &format!("neigh add {gateway} dev slice0 lladdr {port_mac} nud permanent"),
            );
            self.ip(pod, &format!("route add {slice} via {gateway} dev slice0 onlink proto 83"));
            self.ip(&router, &format!("neigh add {address} dev {port} lladdr {nic} nud permanent"));
            if side.lane == 0 {
                let route = format!("route add {slice} via {address} dev {port} onlink src {app}");
                self.ip(&router, &format!("addr add {app} dev lo {nodad}"));
                self.ip(&router, &route);
            }
        }
        for setting in [
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.all.rp_filter=2",
            "net.ipv6.conf.all.forwarding=1",
        ] {
            assert!(self.try_in(pod, &format!("sysctl -qw {setting}")));
        }
        self.ip(pod, "link set slice0 alias slicewire/blue");
    }

    /// Writes a side's plan: what the worker controller would put into the SliceGateway.
    pub(crate) fn plan(&self, side: &Side, other: &Side) {
        self.plan_keys(side, other, (0, other.public_key), None);
    }

    /// The same with the other side's keys: generation and public key, and those of the next.
    pub(crate) fn plan_keys(
        &self,
        side: &Side,
        other: &Side,
        (generation, public_key): (u64, &str),
        next: Option<&str>,
    ) {
        let lane = lane(side, other, (generation, public_key), next);
        self.plan_lanes(side, &[lane], generation, next.map(|_| generation + 1));
    }

    /// Writes the plan of a pod's cluster with these lanes.
    pub(crate) fn plan_lanes(
        &self,
        side: &Side,
        lanes: &[Value],
        generation: u64,
        next: Option<u64>,
    ) {
        let spec = json!({
            "slice": "blue",
            "cluster": side.cluster,
            "prefixes": ["10.20.0.0/16", "fd00:20::/48"],
            "mtu": 1400,
            "generation": generation,
            "nextGeneration": next,
            "lanes": lanes,
        });
        std::fs::write(self.path(side.name).join("plan.json"), spec.to_string()).unwrap();
    }

    pub(crate) fn start_gateway(&mut self, side: &Side) {
        let dir = self.path(side.name);
        let args = [
            "kubernetes".to_owned(),
            "--slice=blue".to_owned(),
            format!("--lane={}", side.lane),
            format!("--keys={}", dir.display()),
            format!("--plan={}", dir.join("plan.json").display()),
            format!("--socket={}", dir.join("gateway.sock").display()),
        ];
        self.start(side.name, "slice-gateway", &slice_gateway(), &args);
    }

    pub(crate) fn start_sidecar(&mut self, side: &Side) {
        let socket = self.path(side.name).join("gateway.sock");
        let program = Path::new(env!("CARGO_BIN_EXE_router-sidecar"));
        let certificate = self.path(side.name);
        let args = [
            format!("--socket={}", socket.display()),
            format!("--certificate={}", certificate.display()),
        ];
        self.start(side.name, "router-sidecar", program, &args);
    }

    fn start(&mut self, ns: &str, name: &str, program: &Path, args: &[String]) {
        let log = std::fs::File::create(self.path(ns).join(format!("{name}.log"))).unwrap();
        // nsenter and not `ip netns exec`, which would hide the host's /sys behind another mount.
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.ns(ns)))
            .arg(program)
            .args(args)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running.push((format!("{ns}/{name}"), child));
    }

    /// Ends a program without giving it a chance to clean up.
    pub(crate) fn kill(&mut self, side: &Side, name: &str) {
        let wanted = format!("{}/{name}", side.name);
        let at = self.running.iter().position(|(n, _)| *n == wanted).unwrap();
        let (_, mut child) = self.running.remove(at);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn pid(&self, side: &Side, name: &str) -> u32 {
        let wanted = format!("{}/{name}", side.name);
        self.running.iter().find(|(n, _)| *n == wanted).unwrap().1.id()
    }

    /// Watches a side's routes as a node does, from a thread in the pod's namespace.
    pub(crate) fn watch(&self, side: &Side) -> Watch {
        let path = format!("/run/netns/{}", self.ns(side.name));
        let node = Endpoint::from_shared(format!("https://{}:5580", side.wan)).unwrap();
        let node = node.tls_config(self.authority.node()).unwrap();
        let (send, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let ns = std::fs::File::open(path).unwrap();
            nix::sched::setns(ns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                while follow(&node, &send).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            });
        });
        Watch { seen, last: None }
    }

    /// Options with which curl shows what a node of the cluster shows.
    pub(crate) fn node_files(&self) -> String {
        let dir = self.path("node");
        std::fs::create_dir_all(&dir).unwrap();
        self.authority.node_files(&dir);
        let file = |name: &str| dir.join(name).display().to_string();
        let (trusted, shown, key) = (file(AUTHORITIES), file(CERTIFICATE), file(KEY));
        format!("--cacert {trusted} --cert {shown} --key {key}")
    }

    /// What the programs logged, for when a test fails.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        for pod in PODS.into_iter().filter(|pod| self.path(pod).exists()) {
            for name in ["slice-gateway", "router-sidecar"] {
                let log = self.path(pod).join(format!("{name}.log"));
                let text = std::fs::read_to_string(log).unwrap_or_default();
                all.push_str(&format!("--- {pod} {name}\n{text}"));
            }
            all.push_str(&self.read_in(pod, "ip rule"));
            all.push_str(&self.read_in(pod, "ip route show table all"));
        }
        all
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in PODS.into_iter().chain(["reast", "rwest", "wan"]) {
            try_run(&format!("ip netns del {}", self.ns(name)));
        }
    }
}

/// A lane of a plan: one end's addresses, and the other end with its keys as in [`Lab::plan_keys`].
pub(crate) fn lane(
    side: &Side,
    other: &Side,
    (generation, public_key): (u64, &str),
    next: Option<&str>,
) -> Value {
    let at = |generation: u64| vec![format!("{}:{}", other.wan, 51820 + generation % 2)];
    let next = next.map(|key| json!({"publicKey": key, "endpoints": at(generation + 1)}));
    let tunnel = json!({
        "cluster": other.cluster,
        "publicKey": public_key,
        "endpoints": at(generation),
        "addresses": other.device,
        "prefixes": other.prefixes,
        "next": next,
    });
    json!({"lane": side.lane, "addresses": side.device, "tunnels": [tunnel]})
}

/// A stream of routes with the times they came.
pub(crate) struct Watch {
    seen: std::sync::mpsc::Receiver<(Instant, Routes)>,
    last: Option<Routes>,
}

impl Watch {
    /// Waits until `wanted` holds; returns when that was told.
    pub(crate) fn until(
        &mut self,
        what: &str,
        limit: Duration,
        wanted: impl Fn(&Routes) -> bool,
    ) -> Instant {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.seen.recv_timeout(left) {
                Ok((at, routes)) => {
                    let done = wanted(&routes);
                    self.last = Some(routes);
                    if done {
                        return at;
                    }
                }
                Err(_) => panic!("not within {limit:?}: {what}; last: {:?}", self.last),
            }
        }
    }

    /// Throws away what was told so far; returns the newest of it, or what was seen before.
    pub(crate) fn now(&mut self) -> Option<&Routes> {
        while let Ok((_, routes)) = self.seen.try_recv() {
            self.last = Some(routes);
        }
        self.last.as_ref()
    }
}

type Seen = std::sync::mpsc::Sender<(Instant, Routes)>;

/// Passes on what a stream says; an error when it broke and should be tried again.
async fn follow(node: &Endpoint, send: &Seen) -> Result<(), Box<dyn std::error::Error>> {
    let mut client = RouteServiceClient::new(node.connect().await?);
    let request = WatchRoutesRequest { watcher: "test".into() };
    let mut stream = client.watch_routes(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        let routes = Routes::try_from(message).expect("what the sidecar says is well-formed");
        if send.send((Instant::now(), routes)).is_err() {
            return Ok(());
        }
    }
    Err("the stream ended".into())
}

/// The gateway's program, beside ours. Cargo builds another package's programs for nobody's
/// tests, so it is asked to, once.
fn slice_gateway() -> PathBuf {
    static BUILT: std::sync::Once = std::sync::Once::new();
    BUILT.call_once(|| {
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "--package", "slicewire-gateway", "--profile", profile])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        // What cargo tells a test of its package would make build scripts run again, and with them
        // half of the dependencies be built again, every time.
        let told =
            |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in std::env::vars().filter(|(name, _)| told(name)) {
            cargo.env_remove(name);
        }
        assert!(cargo.status().unwrap().success(), "slice-gateway does not build");
    });
    Path::new(env!("CARGO_BIN_EXE_router-sidecar")).with_file_name("slice-gateway")
}

pub(crate) fn run(command: &str) {
    let (ok, output) = try_run(command);
    assert!(ok, "{command}: {output}");
}

fn try_run(command: &str) -> (bool, String) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
