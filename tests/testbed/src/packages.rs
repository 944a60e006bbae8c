//! The Debian packages a testbed needs.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{describe, run};
use crate::progress::Progress;

/// A program that must be there, and the package that brings it.
const NEEDED: &[(&str, &str)] = &[
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
    ("ethtool", "ethtool"),
    ("busybox", "busybox-static"),
    ("dash", "dash"),
    ("iperf3", "iperf3"),
    ("tcpdump", "tcpdump"),
    ("ping", "iputils-ping"),
    ("curl", "curl"),
    ("wg", "wireguard-tools"),
    ("cc", "gcc"),
];

/// Installs what is missing, where that is possible, or says what to install.
pub fn ensure(progress: &Progress) -> Result<()> {
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(program, _)| find(program).is_none()).map(|(_, p)| *p).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut install = Command::new("apt-get");
    install
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-y", "--no-install-recommends"])
        .args(&missing);
    if find("apt-get").is_none() || !nix::unistd::geteuid().is_root() {
        bail!("missing packages: install them with\n  sudo {}", describe(&install));
    }
    progress.step(&format!("installing {}", missing.join(" ")));
    if run(&mut install).is_err() {
        run(Command::new("apt-get").arg("update"))?;
        run(&mut install)?;
    }
    Ok(())
}

/// Where a program is: on the PATH, or where only root's PATH points to.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"])
        .map(|directory| Path::new(directory).join(program))
        .find(|file| file.is_file())
}
