//! The CNI plugin `bridge`, run as a container runtime runs it.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::gettid;
use serde_json::{Value, json};
use slicewire_testbed::paths::Paths;
use slicewire_tests::World;

const DEVICE: &str = "swbench0";

/// A bridge in a node's network namespace, with as many ports as there are pods.
pub(crate) struct Bridge<'a> {
    world: &'a World,
    node: String,
    /// The node's network namespace.
    netns: PathBuf,
    plugins: PathBuf,
    /// Where the plugin keeps its books.
    books: PathBuf,
    ports: Vec<Port>,
    made: usize,
}

/// A network namespace with a NIC of the bridge.
struct Port {
    id: String,
    namespace: Namespace,
}

impl<'a> Bridge<'a> {
    /// Makes the bridge and its ports.
    pub(crate) fn start(world: &'a World, node: &str, ports: usize) -> Result<Self> {
        let init = world.testbed.init(world.testbed.machine(node)?);
        let init = init.with_context(|| format!("{node} is off"))?;
        let plugins = world.testbed.tools.program("bridge");
        let plugins = plugins.canonicalize()?.parent().context("a file")?.to_owned();
        let books = Paths::new("bench")?.state().join(format!("cni-{}", std::process::id()));
        let netns = PathBuf::from(format!("/proc/{}/ns/net", init.pid));
        let (node, made) = (node.to_owned(), 0);
        let mut bridge = Self { world, node, netns, plugins, books, ports: Vec::new(), made };
        for _ in 0..ports {
            let (port, _) = bridge.add()?;
            bridge.ports.push(port);
        }
        Ok(bridge)
    }

    /// Milliseconds of so many ADDs.
    pub(crate) fn round(&mut self, each: usize) -> Result<Vec<f64>> {
        let mut times = Vec::new();
        for _ in 0..each {
            let (port, ms) = self.add()?;
            times.push(ms);
            self.delete(&port)?;
        }
        Ok(times)
    }

    fn add(&mut self) -> Result<(Port, f64)> {
        self.made += 1;
        let port = Port { id: format!("bench{}", self.made), namespace: Namespace::new()? };
        let (said, ms) = self.call("ADD", &port)?;
        let result: Value = serde_json::from_slice(&said).context("bridge told no result")?;
        let addresses = result["ips"].as_array().map_or(0, Vec::len);
        ensure!(addresses == 2, "bridge gave {addresses} addresses, not two: {result}");
        Ok((port, ms))
    }

    fn delete(&self, port: &Port) -> Result<()> {
        self.call("DEL", port).map(drop)
    }

    /// Runs the plugin in the node's network namespace; what it printed, and the milliseconds
    /// from starting it to its end.
    fn call(&self, command: &str, port: &Port) -> Result<(Vec<u8>, f64)> {
        let config = self.config().to_string();
        let mut program = Command::new(self.plugins.join("bridge"));
        program
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", &port.id)
            .env("CNI_NETNS", &port.namespace.path)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", &self.plugins)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        thread::scope(|scope| {
            let call = scope.spawn(|| -> Result<(Vec<u8>, f64)> {
                setns(File::open(&self.netns)?, CloneFlags::CLONE_NEWNET)?;
                let begun = Instant::now();
                let mut child = program.spawn().context("cannot run bridge")?;
                if let Some(mut input) = child.stdin.take() {
                    input.write_all(config.as_bytes())?;
                }
                let output = child.wait_with_output()?;
                let ms = begun.elapsed().as_secs_f64() * 1e3;
                let said = String::from_utf8_lossy(&output.stdout);
                ensure!(output.status.success(), "bridge {command}: {said}");
                Ok((output.stdout, ms))
            });
            call.join().unwrap_or_else(|_| bail!("running bridge panicked"))
        })
    }

    fn config(&self) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": "bench",
            "type": "bridge",
            "bridge": DEVICE,
            "isGateway": true,
            "ipam": {
                "type": "host-local",
                "dataDir": self.books,
                "ranges": [[{"subnet": "10.249.0.0/16"}], [{"subnet": "fd00:249::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        })
    }
}

impl Drop for Bridge<'_> {
    fn drop(&mut self) {
        // The NICs go with their namespaces; what cannot be removed goes with the node.
        self.ports.clear();
        let _ = self.world.testbed.exec(&self.node, &["ip", "link", "delete", DEVICE]);
        let _ = std::fs::remove_dir_all(&self.books);
    }
}

/// A fresh network namespace, kept by a thread that lives in it.
struct Namespace {
    path: PathBuf,
    end: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    fn new() -> Result<Self> {
        let (made, made_at) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = thread::spawn(move || {
            let tid = unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid());
            // When nobody listens nobody needs the namespace.
            let _ = made.send(tid);
            let _ = ended.recv();
        });
        let tid = made_at.recv().context("the namespace's thread ended")?;
        let tid = tid.context("cannot make a network namespace; run as root")?;
        let path = PathBuf::from(format!("/proc/{}/task/{tid}/ns/net", std::process::id()));
        Ok(Self { path, end: Some(end), thread: Some(thread) })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
