//! The servers that are compared, as processes.

use std::fs::{self, File};
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use slicewire_bench_report::used;
use slicewire_testbed::build::Toolset;
use slicewire_testbed::cgroup;

use crate::names::{Number, ZONE};

/// Who is measured.
pub(crate) const OURS: &str = "ours";
/// Who is compared with.
pub(crate) const COREDNS: &str = "CoreDNS";

/// A process that ends with the value.
pub(crate) struct Process(Child);

/// A cgroup that ends with the value, and whoever is in it.
struct Group(String);

impl Group {
    fn new(name: &str, member: &Process) -> Result<Self> {
        let group = Self(format!("slicewire-bench-dns-{}/{name}", std::process::id()));
        cgroup::create(&group.0)?;
        cgroup::enter(&group.0, member.0.id())?;
        Ok(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What stays is empty and in nobody's way.
        cgroup::destroy(&self.0).ok();
    }
}

impl Process {
    /// Starts a command; what it says goes to a file.
    pub(crate) fn start(mut command: Command, log: &File) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self(child))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended already is as good.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A DNS server on a port of the local host.
pub(crate) struct Server {
    /// Whose it is.
    pub(crate) name: &'static str,
    /// Where it answers.
    pub(crate) port: u16,
    process: Process,
    group: Group,
}

impl Server {
    /// Our own: this program again.
    pub(crate) fn ours(services: u32, endpoints: u32) -> Result<Self> {
        let port = 5301;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--services", &services.to_string()]);
        command.args(["--endpoints", &endpoints.to_string(), "serve", &port.to_string()]);
        let process = Process::start(command, &File::create("/dev/null")?)?;
        let group = Group::new("ours", &process)?;
        Ok(Self { name: OURS, port, process, group })
    }

    /// CoreDNS, as clusters have it.
    pub(crate) fn coredns(tools: &Toolset, directory: &Path, kubeconfig: &Path) -> Result<Self> {
        let port = 5302;
        let corefile = directory.join("Corefile");
        let kubeconfig = kubeconfig.display();
        fs::write(
            &corefile,
            format!(
                ".:{port} {{\n  errors\n  kubernetes {ZONE} {{\n    kubeconfig {kubeconfig} all\n    \
                 ttl 30\n  }}\n  prometheus 127.0.0.1:9153\n  cache 30\n  loadbalance\n}}\n"
            ),
        )?;
        let mut command = Command::new(tools.program("coredns"));
        command.arg("-conf").arg(&corefile);
        let process = Process::start(command, &File::create(directory.join("coredns.log"))?)?;
        let group = Group::new("coredns", &process)?;
        Ok(Self { name: COREDNS, port, process, group })
    }

    /// Waits until it answers for the last service.
    pub(crate) fn wait(&self, services: u32) -> Result<()> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, self.port))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let last = Number(services - 1);
        let question = question(&[&last.name(), &last.namespace(), "svc", "clusterset", "local"]);
        let until = Instant::now() + Duration::from_secs(120);
        let mut answer = [0; 512];
        while Instant::now() < until {
            // Nobody may listen yet.
            if socket.send(&question).is_ok()
                && let Ok(len) = socket.recv(&mut answer)
                && len > 12
                && answer[3] & 0x0f == 0
                && answer[7] > 0
            {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(100));
        }
        bail!("{} does not answer for its services", self.name)
    }

    /// The processor time that it has used, the kernel's for its sockets included.
    pub(crate) fn used(&self) -> Result<Duration> {
        Ok(used::process(self.process.0.id())?)
    }

    /// Runs `act` while it has so many processors and no more.
    pub(crate) fn limited<T>(&self, processors: f64, act: impl FnOnce() -> Result<T>) -> Result<T> {
        cgroup::limit(&self.group.0, Some(processors))?;
        let done = act();
        cgroup::limit(&self.group.0, None)?;
        done
    }

    /// Its resident size in MB.
    pub(crate) fn resident(&self) -> Result<f64> {
        Ok(used::resident(self.process.0.id())?)
    }
}

/// A question for IPv4 addresses.
fn question(labels: &[&str]) -> Vec<u8> {
    let mut message = vec![0x53, 0x57, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        message.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}
