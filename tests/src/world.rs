//! The clusters the stories play in.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use slicewire_testbed::{ClusterSpec, Progress, Spec, Testbed};

/// The name of the stories' testbed, unless `SLICEWIRE_TESTBED` says another.
const TESTBED: &str = "stories";
/// The project the stories use.
pub const PROJECT: &str = "demo";
/// Its namespace on the hub.
pub const PROJECT_NS: &str = "slicewire-demo";
/// The worker clusters.
pub const WORKERS: [&str; 2] = ["east", "west"];

const IMAGES: [&str; 5] =
    ["controller", "netop-daemon", "slice-gateway", "router-sidecar", "nsm-injector"];

/// A testbed with Slicewire's images loaded.
pub struct World {
    /// The clusters.
    pub testbed: Testbed,
    slicectl: PathBuf,
}

/// What `make` built: `SLICEWIRE_BUILT` holds the programs (`target/release` when it is not set),
/// `SLICEWIRE_IMAGES` the archives (`target/images`).
fn built(root: &Path, variable: &str, usual: &str) -> PathBuf {
    std::env::var_os(variable).map_or_else(|| root.join(usual), PathBuf::from)
}

impl World {
    /// Brings the clusters up and loads the images that `make images` built.
    ///
    /// # Errors
    /// The testbed cannot be brought up, or an image or `slicectl` is not built.
    pub fn up(root: &Path) -> Result<Self> {
        let nodes = |name: &str, nodes| ClusterSpec { name: name.to_owned(), nodes };
        let clusters = vec![nodes("hub", 1), nodes("east", 2), nodes("west", 2)];
        let progress = Progress::new();
        let testbed = Testbed::up(&Spec { name: name(), clusters }, &progress)?;
        let images = built(root, "SLICEWIRE_IMAGES", "target/images");
        for image in IMAGES {
            let archive = images.join(format!("{image}.tar"));
            ensure!(archive.is_file(), "{} is missing: run `make images`", archive.display());
            testbed.load(&archive, &[])?;
        }
        let slicectl = built(root, "SLICEWIRE_BUILT", "target/release").join("slicectl");
        Ok(Self { testbed, slicectl })
    }

    /// Takes everything down.
    ///
    /// # Errors
    /// Something is left.
    pub fn down() -> Result<()> {
        Testbed::down(&name(), &Progress::new())
    }

    /// Runs `slicectl`; its standard output.
    ///
    /// # Errors
    /// It ends with another status than 0; the text holds all it said.
    pub fn slicectl(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.slicectl)
            .args(args)
            .output()
            .with_context(|| format!("cannot run {}; build it first", self.slicectl.display()))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "slicectl {args:?}: {said}\n{complained}");
        Ok(said)
    }

    /// All that `slicectl` says, whatever it ends with.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn slicectl_said(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.slicectl).args(args).output().context("slicectl")?;
        let said = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// What `slicectl` ends with, and all that it says.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn slicectl_ended(&self, args: &[&str]) -> Result<(Option<i32>, String)> {
        let output = Command::new(&self.slicectl).args(args).output().context("slicectl")?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// A cluster's kubeconfig as an argument.
    pub fn kubeconfig(&self, cluster: &str) -> String {
        self.testbed.kubeconfig(cluster).display().to_string()
    }

    /// Installs the hub and lets both workers join by token, as a user would.
    ///
    /// # Errors
    /// `slicectl` fails.
    pub fn install(&self) -> Result<()> {
        let hub = self.kubeconfig("hub");
        let never = ["--image-pull-policy", "Never"];
        self.slicectl(&[&["install", "hub", "--kubeconfig", &hub][..], &never].concat())?;
        for cluster in WORKERS {
            let token = self.token(&["--cluster", cluster])?;
            self.join(cluster, &token, &[])?;
        }
        Ok(())
    }

    /// Makes a token on the hub; the string to join with.
    ///
    /// # Errors
    /// `slicectl` fails.
    pub fn token(&self, options: &[&str]) -> Result<String> {
        let hub = self.kubeconfig("hub");
        let create = ["token", "create", "--kubeconfig", &hub, "--project", PROJECT];
        Ok(self.slicectl(&[&create[..], options].concat())?.trim().to_owned())
    }

    /// Lets a cluster join with what a token's string says and nothing else of the hub's.
    ///
    /// # Errors
    /// It is not let in; the text holds all that was said.
    pub fn join(&self, cluster: &str, token: &str, options: &[&str]) -> Result<()> {
        let worker = self.kubeconfig(cluster);
        let join = ["join", token, "--kubeconfig", &worker, "--image-pull-policy", "Never"];
        self.slicectl(&[&join[..], options].concat()).map(drop)
    }

    /// `kubectl` on a cluster, words split at spaces.
    ///
    /// # Errors
    /// It fails; the text holds all it said.
    pub fn k(&self, cluster: &str, words: &str) -> Result<String> {
        self.testbed.kubectl(cluster, &words.split_whitespace().collect::<Vec<_>>())
    }

    /// `kubectl get -o json`.
    ///
    /// # Errors
    /// It fails, or what it prints is not JSON.
    pub fn get(&self, cluster: &str, words: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.k(cluster, &format!("get {words} -o json"))?)?)
    }

    /// Runs a shell line in a pod.
    ///
    /// # Errors
    /// It ends with another status than 0.
    pub fn sh(&self, cluster: &str, namespace: &str, pod: &str, line: &str) -> Result<String> {
        self.testbed.kubectl(cluster, &["-n", namespace, "exec", pod, "--", "sh", "-c", line])
    }

    /// Applies YAML to a cluster.
    ///
    /// # Errors
    /// It is refused; the text holds why.
    pub fn apply(&self, cluster: &str, yaml: &str) -> Result<String> {
        self.testbed.apply(cluster, yaml)
    }

    /// Applies a SliceConfig over both workers: prefixes and namespaces, comma-separated.
    ///
    /// # Errors
    /// It is refused.
    pub fn slice(&self, name: &str, prefixes: &str, namespaces: &str) -> Result<()> {
        self.apply(
            "hub",
            &format!(
                r#"{{"apiVersion": "slicewire.dev/v1alpha1", "kind": "SliceConfig",
                "metadata": {{"name": "{name}", "namespace": "{PROJECT_NS}"}},
                "spec": {{"prefixes": [{}], "clusters": [{{"name": "east"}}, {{"name": "west"}}],
                "namespaces": [{{"names": [{}]}}]}}}}"#,
                quoted(prefixes),
                quoted(namespaces)
            ),
        )?;
        Ok(())
    }

    /// Deletes a SliceConfig and waits until it is gone.
    ///
    /// # Errors
    /// It is not gone within a minute.
    pub fn delete_slice(&self, name: &str) -> Result<()> {
        self.k("hub", &format!("-n {PROJECT_NS} delete sliceconfig {name} --timeout=60s"))?;
        Ok(())
    }

    /// Pulls a machine's plug.
    ///
    /// # Errors
    /// There is no such machine, or something of it is left running.
    pub fn power_off(&self, machine: &str) -> Result<()> {
        self.testbed.power_off(machine)
    }

    /// Switches a machine on again, its disk as it was.
    ///
    /// # Errors
    /// It does not start.
    pub fn power_on(&self, machine: &str) -> Result<()> {
        self.testbed.power_on(machine)
    }

    /// Polls until `f` gives something.
    ///
    /// # Errors
    /// Nothing within `seconds`; the text tells the last error.
    pub fn wait<T>(what: &str, seconds: u64, mut f: impl FnMut() -> Result<T>) -> Result<T> {
        let end = Instant::now() + Duration::from_secs(seconds);
        loop {
            match f() {
                Ok(value) => return Ok(value),
                Err(error) if Instant::now() > end => {
                    return Err(error.context(format!("waited {seconds} s in vain: {what}")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// What a node's kernel holds that a slice might change, without counters and what changes by
    /// itself. kube-proxy's tables are left out: it removes a deleted Service's chains when it next
    /// has something to do.
    ///
    /// # Errors
    /// The node cannot be entered.
    pub fn kernel(&self, node: &str) -> Result<Vec<String>> {
        let script = "ls /run/netns 2>/dev/null; ip -o link | sed -e 's/^[0-9]*: //' -e 's/qlen.*//'; \
             ip route show table all; ip -6 route show table all; ip rule; ip -6 rule; \
             bridge fdb; \
             nft list tables | grep -v kube-proxy | while read -r t; do nft list $t; done";
        let said = self.testbed.exec_checked(node, &["sh", "-c", script])?;
        let volatile = |l: &&str| !l.contains("expires") && !l.starts_with("cni-");
        let mut lines: Vec<String> = said.lines().filter(volatile).map(str::to_owned).collect();
        lines.retain(|l| !l.contains("veth"));
        lines.sort();
        Ok(lines)
    }

    /// Takes away what a story that failed may have left, so that the next one is not its victim:
    /// slices other than blue, namespaces other than shop, pods that only one story has, policies, and
    /// what blue's settings were changed to.
    pub fn tidy(&self) {
        let slices = self.k("hub", &format!("-n {PROJECT_NS} get sliceconfigs -o name"));
        for slice in slices.unwrap_or_default().lines().filter(|s| !s.ends_with("/blue")) {
            let _ = self.k("hub", &format!("-n {PROJECT_NS} delete {slice} --timeout=60s"));
        }
        let _ = self.k("hub", &format!("-n {PROJECT_NS} delete slicepolicies --all --wait=false"));
        let usual = r#"{"spec":{"policy":null,"namespaceIsolationProfile":null,"services":null}}"#;
        let blue = ["-n", PROJECT_NS, "patch", "sliceconfig", "blue", "--type=merge", "-p", usual];
        let _ = self.testbed.kubectl("hub", &blue);
        for cluster in WORKERS {
            let _ =
                self.k(cluster, "-n shop delete networkpolicies theirs friends --ignore-not-found");
            let all = self.k(cluster, "get namespaces -o name").unwrap_or_default();
            let names = all.lines().filter_map(|line| line.strip_prefix("namespace/"));
            let kept = |n: &str| n == "default" || n == "shop" || n.starts_with("kube-");
            for name in names.filter(|n| !kept(n) && !n.starts_with("slicewire-")) {
                let _ = self.k(cluster, &format!("delete namespace {name} --timeout=60s"));
            }
            let gone = ["-n", "shop", "delete", "pod", "--now", "-l", "app,app notin (web,far)"];
            let _ = self.testbed.kubectl(cluster, &gone);
        }
    }

    /// What a person would look at first when a story failed.
    pub fn diagnosis(&self) -> String {
        let mut text = String::new();
        for (cluster, words) in [
            ("hub", "get sliceconfigs,workerslices,workergateways -A -o wide"),
            ("hub", "get pods -A"),
            ("east", "get slices,slicegateways,slicenodes,pods -A -o wide"),
            ("west", "get slices,slicegateways,slicenodes,pods -A -o wide"),
        ] {
            let said = self.k(cluster, words).unwrap_or_else(|e| format!("{e:#}"));
            text.push_str(&format!("--- {cluster}: kubectl {words}\n{said}\n"));
        }
        text
    }
}

fn name() -> String {
    std::env::var("SLICEWIRE_TESTBED").unwrap_or_else(|_| TESTBED.to_owned())
}

fn quoted(list: &str) -> String {
    list.split(',').map(|p| format!("\"{p}\"")).collect::<Vec<_>>().join(", ")
}

/// Says that something is not so.
///
/// # Errors
/// Always.
pub fn not_yet<T>(why: impl std::fmt::Display) -> Result<T> {
    bail!("{why}")
}
