//! Switching machines on and off.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::cgroup;
use crate::cni;
use crate::config;
use crate::fault::remove_file;
use crate::init::{Boot, PROGRAMS};
use crate::link;
use crate::pki::{self, Pki};
use crate::plan::{Cluster, Machine, Role};
use crate::process::{Identity, run, write_whole};
use crate::testbed::Testbed;
use crate::units;
use crate::wan;

/// Switches a machine on, unless it is. Its disk is as it was left.
pub fn on(testbed: &Testbed, machine: &Machine) -> Result<()> {
    if testbed.init(machine).is_some() {
        return Ok(());
    }
    // What a lost or half-started predecessor may have left.
    off(testbed, machine)?;
    let cluster = testbed.cluster(&machine.cluster)?;
    write_files(testbed, cluster, machine)?;
    let group = testbed.machine_cgroup(machine);
    cgroup::create(&group)?;
    cgroup::weigh(&group)?;
    start(testbed, machine).with_context(|| {
        let log = testbed.paths.machine(&machine.name).join("log/init.log");
        let said = fs::read_to_string(log).unwrap_or_default();
        format!("cannot switch {} on\n{said}", machine.name)
    })
}

/// Switches a machine off as if its plug was pulled.
pub fn off(testbed: &Testbed, machine: &Machine) -> Result<()> {
    if let Some(init) = testbed.init(machine) {
        init.kill()?;
    }
    cgroup::destroy(&testbed.machine_cgroup(machine))?;
    wan::unplug(&testbed.plan, machine);
    remove_file(&testbed.relay_file(machine))?;
    remove_file(&testbed.init_file(machine))
}

fn start(testbed: &Testbed, machine: &Machine) -> Result<()> {
    let mut booter = Command::new(program()?)
        .arg("node-boot")
        .arg(testbed.boot_file(machine))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Dropped without a word on any error below, which ends the machine.
    let gate = booter.stdin.take().context("no pipe")?;
    let output = booter.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let pid: i32 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    let init = Identity::of(pid).context("its first process ended at once")?;
    wan::plug(&testbed.plan, machine, pid)?;
    link::apply(testbed, machine, pid)?;
    std::io::Write::write_all(&mut &gate, b"+")?;
    // Last: one that is remembered is complete.
    init.save(&testbed.init_file(machine))
}

/// The `testbed` program: this one, or the one built next to a test.
pub(crate) fn program() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    if own.file_name().is_some_and(|name| name == "testbed") {
        return Ok(own);
    }
    let chosen = std::env::var_os("SLICEWIRE_TESTBED_PROGRAM").map(PathBuf::from);
    chosen
        .or_else(|| own.ancestors().skip(1).map(|d| d.join("testbed")).find(|p| p.is_file()))
        .context("the testbed program is not built: run `cargo build -p slicewire-testbed` first")
}

fn write_files(testbed: &Testbed, cluster: &Cluster, machine: &Machine) -> Result<()> {
    let directory = testbed.paths.machine(&machine.name);
    for below in ["disk", "log", "stopped", "kubernetes"] {
        fs::create_dir_all(directory.join(below))?;
    }
    let pki = Pki::ensure(&testbed.paths.pki(&cluster.name), cluster)?;
    let etc = directory.join("kubernetes");
    let copied: Vec<String> = match machine.role {
        Role::ControlPlane => {
            let both = ["apiserver", "kubelet-client", "front-proxy-client"];
            let both = both.iter().flat_map(|name| [format!("{name}.crt"), format!("{name}.key")]);
            let users =
                ["controller-manager", "scheduler"].map(|user| format!("{user}.kubeconfig"));
            both.chain(users).chain(["ca.key".into(), "sa.key".into(), "sa.pub".into()]).collect()
        }
        Role::Worker { .. } => {
            write_worker_files(testbed, machine, &directory)?;
            let kubelet = format!("{}.kubeconfig", pki::kubelet_name(machine));
            vec![kubelet, "kube-proxy.kubeconfig".into()]
        }
    };
    for name in copied.iter().map(String::as_str).chain(["ca.crt"]) {
        fs::copy(pki.file(name), etc.join(name))?;
    }
    let boot = boot(testbed, cluster, machine, directory)?;
    write_whole(&testbed.boot_file(machine), &serde_json::to_vec_pretty(&boot)?)
}

fn write_worker_files(testbed: &Testbed, machine: &Machine, directory: &Path) -> Result<()> {
    let etc = directory.join("kubernetes");
    let write = |path: PathBuf, value: Value| write_whole(&path, value.to_string().as_bytes());
    write(etc.join("kubelet.json"), config::kubelet(&testbed.machine_cgroup(machine)))?;
    write(etc.join("kube-proxy.json"), config::kube_proxy(machine))?;
    write_whole(&etc.join("containerd.toml"), config::containerd().as_bytes())?;
    let cidrs = machine.pod_cidrs().context("a worker has pods")?;
    write(directory.join("disk/cni/10-testbed.conflist"), cni::configuration(&cidrs))?;
    let plugins = directory.join("disk/opt/cni/bin");
    fs::create_dir_all(&plugins)?;
    let no_dad = plugins.join(cni::NO_DAD_NAME);
    fs::write(&no_dad, cni::NO_DAD)?;
    fs::set_permissions(&no_dad, Permissions::from_mode(0o755))?;
    for plugin in ["ptp", "bridge", "loopback", "host-local", "portmap"] {
        let link = plugins.join(plugin);
        let target = Path::new(PROGRAMS).join(toolset_name(testbed)).join(plugin);
        if fs::read_link(&link).ok().as_ref() != Some(&target) {
            let _ = fs::remove_file(&link);
            symlink(target, link)?;
        }
    }
    Ok(())
}

fn toolset_name(testbed: &Testbed) -> String {
    format!("set-{}", testbed.tools.hash)
}

fn boot(
    testbed: &Testbed,
    cluster: &Cluster,
    machine: &Machine,
    directory: PathBuf,
) -> Result<Boot> {
    let identity = Sha256::digest(format!("{}/{}", testbed.plan.name, machine.name));
    let worker = matches!(machine.role, Role::Worker { .. });
    let sysctls = wan::machine_sysctls(machine);
    Ok(Boot {
        hostname: machine.name.clone(),
        machine_id: identity.iter().take(16).map(|byte| format!("{byte:02x}")).collect(),
        directory,
        bin: testbed.paths.bin(),
        toolset: toolset_name(testbed),
        cgroup: testbed.machine_cgroup(machine),
        nameserver: testbed.plan.gateway().0.to_string(),
        ip: wan::machine_batch(&testbed.plan, cluster, machine),
        sysctls: sysctls.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        nft: if worker { config::masquerade() } else { String::new() },
        units: units::units(cluster, machine),
    })
}

/// Whether a cluster's API server answers that it is ready.
pub fn api_ready(testbed: &Testbed, cluster: &Cluster) -> bool {
    let pki = testbed.paths.pki(&cluster.name);
    let mut curl = Command::new("curl");
    curl.args(["-sf", "-m", "2", "--cacert"]).arg(pki.join("ca.crt"));
    curl.arg("--cert").arg(pki.join("admin.crt")).arg("--key").arg(pki.join("admin.key"));
    run(curl.arg(format!("{}/readyz", cluster.api_url()))).is_ok()
}
