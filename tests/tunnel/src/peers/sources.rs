//! Where each program comes from.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, anyhow};

use crate::{
    peers::{
        Program, cached,
        debian::{Unpacked, unpack, unpack_with_dependencies},
        say,
    },
    process::output,
};

/// Versions of Nebula, newest first: the newest one that the Go toolchain here can build is used.
const NEBULA: [&str; 4] = ["latest", "v1.11.2", "v1.11.1", "v1.11.0"];

/// wireguard-go as its authors publish it today.
///
/// # Errors
/// When the Go toolchain cannot build it.
pub fn wireguard_go() -> Result<Program> {
    let place =
        cached("wireguard-go", |place| go_install(&["golang.zx2c4.com/wireguard@latest"], place))?;
    Ok(plain(&place.join("wireguard")))
}

/// wireguard-go as Debian ships it.
///
/// # Errors
/// When apt cannot download it.
pub fn wireguard_go_debian() -> Result<Program> {
    let place = cached("wireguard-go-debian", |place| unpack("wireguard-go", place).map(drop))?;
    Ok(plain(&place.join("usr/bin/wireguard-go")))
}

/// Cloudflare's boringtun.
///
/// # Errors
/// When cargo cannot build it.
pub fn boringtun() -> Result<Program> {
    let place = cached("boringtun", |place| cargo_install("boringtun-cli@0.7.1", place))?;
    Ok(plain(&place.join("bin/boringtun-cli")))
}

/// Mullvad's gotatun.
///
/// # Errors
/// When cargo cannot build it.
pub fn gotatun() -> Result<Program> {
    let place = cached("gotatun", |place| cargo_install("gotatun-cli@0.10.2", place))?;
    Ok(plain(&place.join("bin/gotatun")))
}

/// OpenVPN as Debian ships it.
///
/// # Errors
/// When apt cannot download it.
pub fn openvpn() -> Result<Program> {
    let place = cached("openvpn", |place| unpack_with_dependencies("openvpn", place).map(drop))?;
    Ok(Unpacked::at(place).program("usr/sbin/openvpn"))
}

/// Nebula and its tool for certificates.
///
/// # Errors
/// When the Go toolchain can build no version of it.
pub fn nebula() -> Result<(Program, Program)> {
    let place = cached("nebula", |place| {
        let attempts = NEBULA.iter().map(|version| {
            let package = |name| format!("github.com/slackhq/nebula/cmd/{name}@{version}");
            let built = go_install(&[&package("nebula"), &package("nebula-cert")], place);
            built.inspect_err(|_| say(&format!("nebula: {version} does not build here")))
        });
        first_success(attempts)
    })?;
    Ok((plain(&place.join("nebula")), plain(&place.join("nebula-cert"))))
}

fn first_success(attempts: impl Iterator<Item = Result<()>>) -> Result<()> {
    let mut last = anyhow!("nothing was tried");
    for attempt in attempts {
        match attempt {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn go_install(packages: &[&str], place: &Path) -> Result<()> {
    output(Command::new("go").arg("install").args(packages).env("GOBIN", place))
        .context("go install failed; is Go installed?")?;
    Ok(())
}

fn cargo_install(package: &str, place: &Path) -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["install", "--locked", "--force", package, "--root"]).arg(place);
    command.arg("--target-dir").arg(place.join("build")).current_dir(place);
    output(command.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS"))?;
    std::fs::remove_dir_all(place.join("build"))?;
    Ok(())
}

fn plain(path: &Path) -> Program {
    Program { path: path.to_owned(), libraries: Vec::new() }
}
