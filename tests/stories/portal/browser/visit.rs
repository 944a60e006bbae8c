//! A browser with a page open.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use slicewire_tests::portal::{NAME, Portal};
use tempfile::TempDir;

/// Whose certificates the browser believes in besides the usual authorities'.
#[derive(Clone, Copy)]
pub(super) enum Trust {
    /// The hub's own, as somebody would import it.
    Hub,
    /// None.
    Nobody,
}

/// A browser of its own home; it ends when it is dropped.
pub(super) struct Visit {
    browser: Child,
    home: TempDir,
}

impl Visit {
    /// Opens a page. The hub's name leads to where the portal is.
    pub(super) fn to(url: &str, portal: &Portal, trust: Trust) -> Result<Self> {
        let home = tempfile::tempdir()?;
        certificates(&home, portal, trust)?;
        let log = File::create(home.path().join("log"))?;
        let browser = Command::new("chromium")
            // Its sandbox is not for root, and the page is ours.
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            // Nobody else is to be called.
            .args(["--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync", "--no-proxy-server"])
            .arg(format!("--host-resolver-rules=MAP {NAME}:9443 {}", portal.address))
            .arg(format!("--user-data-dir={}", home.path().join("profile").display()))
            .args(["--enable-logging=stderr", url])
            .env("HOME", home.path())
            // Nothing of it stays behind.
            .env("TMPDIR", home.path())
            .env_remove("XDG_DATA_HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("cannot run chromium")?;
        Ok(Self { browser, home })
    }

    /// What the browser has said, the page's console included.
    pub(super) fn said(&self) -> String {
        let log = std::fs::read(self.home.path().join("log")).unwrap_or_default();
        format!("the browser said: {}", String::from_utf8_lossy(&log))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Ok(group) = i32::try_from(self.browser.id()) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        let _ = self.browser.wait();
    }
}

/// Makes the store in which browsers look for certificates that their user trusts. The hub's is no
/// authority's: it is believed as what it is ("P"), and so its name and its time are still looked at, which
/// they are not when a browser is told to ignore errors.
fn certificates(home: &TempDir, portal: &Portal, trust: Trust) -> Result<()> {
    let store = home.path().join(".pki/nssdb");
    std::fs::create_dir_all(&store)?;
    let store = format!("sql:{}", store.display());
    certutil(&["-N", "--empty-password", "-d", &store])?;
    if matches!(trust, Trust::Hub) {
        let file = home.path().join("hub.crt");
        std::fs::write(&file, &portal.authority)?;
        let file = file.display().to_string();
        certutil(&["-A", "-d", &store, "-n", "hub", "-t", "P,,", "-i", &file])?;
    }
    Ok(())
}

fn certutil(arguments: &[&str]) -> Result<()> {
    let output = Command::new("certutil").args(arguments).output().context("certutil")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "certutil {arguments:?}: {said}");
    Ok(())
}
