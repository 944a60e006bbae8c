//! The hub controller, as a process of its own with its own account's rights.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use slicewire_bench_report::used;
use slicewire_testbed::Testbed;
use slicewire_tests::portal::Portal;

const API: &str = "127.0.0.1:29443";
const ADMIN: &str = "127.0.0.1:28080";
const WEBHOOK: &str = "127.0.0.1:28443";

pub(crate) const RESIDENT_CALLED: &str = "resident size of the hub after calls";

/// What the hub needs to run.
pub(crate) struct Place {
    program: PathBuf,
    kubeconfig: PathBuf,
    log: PathBuf,
}

/// A running hub.
pub(crate) struct Hub {
    child: Child,
    /// The way to its API.
    pub(crate) portal: Portal,
}

/// Puts CRDs, the hub's account and its rights into the API server.
pub(crate) fn prepare(testbed: &Testbed, root: &Path) -> Result<Place> {
    let program = root.join("target/release/controller");
    ensure!(program.is_file(), "{} is missing: run `make bench-api`", program.display());
    let manifests = fs::read_to_string(root.join("deploy/rendered/hub.yaml"))?;
    let left_out = ["Deployment", "ValidatingWebhookConfiguration", "PodDisruptionBudget"];
    let kept = manifests.split("\n---\n").filter(|document| {
        !left_out.iter().any(|kind| document.lines().any(|l| l == format!("kind: {kind}")))
    });
    let kept: Vec<&str> = kept.collect();
    let folder = testbed.kubeconfig("hub").parent().context("no folder")?.to_owned();
    let file = folder.join("bench-hub.yaml");
    fs::write(&file, kept.join("\n---\n"))?;
    let apply = ["apply", "--server-side", "--force-conflicts", "-f", &file.display().to_string()];
    testbed.kubectl("hub", &apply)?;
    let account = ["-n", "slicewire-system", "create", "token", "slicewire-hub", "--duration=6h"];
    let token = testbed.kubectl("hub", &account)?;
    let mut config: Value = serde_json::from_str(&fs::read_to_string(testbed.kubeconfig("hub"))?)?;
    config["users"][0]["user"] = json!({"token": token.trim()});
    let kubeconfig = folder.join("bench-hub.kubeconfig");
    fs::write(&kubeconfig, config.to_string())?;
    Ok(Place { program, kubeconfig, log: folder.join("bench-hub.log") })
}

impl Hub {
    /// Starts it and waits until it is ready.
    pub(crate) fn start(testbed: &Testbed, place: &Place, unlimited: bool) -> Result<Self> {
        // Who is there already would be taken for it.
        for address in [API, ADMIN, WEBHOOK] {
            TcpListener::bind(address).with_context(|| format!("{address} is in use"))?;
        }
        let log = File::create(&place.log)?;
        let mut command = Command::new(&place.program);
        command
            .arg("hub")
            .env("KUBECONFIG", &place.kubeconfig)
            .env("MALLOC_ARENA_MAX", "2")
            .env("API_ADDRESS", API)
            .env("ADMIN_ADDRESS", ADMIN)
            .env("WEBHOOK_ADDRESS", WEBHOOK)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if unlimited {
            command.env("API_CALLS", "1000000").env("API_CALLS_OF_A_METHOD", "1000000");
        }
        let child = command.spawn()?;
        // Kills the child when the rest fails.
        let mut hub = Self { child, portal: Portal::new(API.to_owned(), String::new())? };
        wait("the hub is ready", 60, || {
            let said =
                Command::new("curl").args(["-sf", &format!("http://{ADMIN}/readyz")]).output()?;
            Ok(said.status.success())
        })
        .with_context(|| format!("see {}", place.log.display()))?;
        let secret =
            ["-n", "slicewire-system", "get", "secret", "slicewire-hub-webhook", "-o", "json"];
        let secret: Value = serde_json::from_str(&testbed.kubectl("hub", &secret)?)?;
        let authority = secret["data"]["ca.crt"].as_str().context("no authority")?;
        let authority = String::from_utf8(STANDARD.decode(authority)?)?;
        hub.portal = Portal::new(API.to_owned(), authority)?;
        Ok(hub)
    }

    /// Its resident size in MB.
    pub(crate) fn resident(&self) -> Result<f64> {
        Ok(used::resident(self.child.id())?)
    }

    /// Waits until it has nothing more to do: until it uses less than a tenth of a processor.
    pub(crate) fn settle(&self) -> Result<()> {
        wait("the hub has settled", 600, || {
            let before = used::process(self.child.id())?;
            thread::sleep(Duration::from_secs(3));
            Ok(used::process(self.child.id())? - before < Duration::from_millis(300))
        })
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until it is so.
pub(crate) fn wait(what: &str, seconds: u64, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !so()? {
        if Instant::now() > end {
            bail!("waited {seconds} s in vain: {what}");
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
