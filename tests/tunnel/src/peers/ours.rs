//! The gateway of this repository.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use anyhow::{Result, anyhow, ensure};

use crate::{
    peers::{Program, say},
    process::output,
};

/// `slice-gateway`, built as it is shipped: `$SLICEWIRE_GATEWAY` if set, else cargo's release
/// build of the workspace.
///
/// # Errors
/// When it does not build.
pub fn slice_gateway() -> Result<Program> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| locate().map_err(|error| format!("{error:#}")));
    let path = built.clone().map_err(|error| anyhow!("no slice-gateway: {error}"))?;
    Ok(Program { path, libraries: Vec::new() })
}

fn locate() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SLICEWIRE_GATEWAY") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "SLICEWIRE_GATEWAY={} is not a file", path.display());
        return Ok(path);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    say("slice-gateway: cargo build --release");
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "-p", "slicewire-gateway", "--bin", "slice-gateway"]);
    output(command.current_dir(&root))?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let path = target.join("release/slice-gateway");
    ensure!(path.is_file(), "cargo built no {}", path.display());
    Ok(path)
}

/// A program of this package, which cargo builds along with its tests.
///
/// # Errors
/// When it is not where cargo puts it.
pub fn beside_tests(name: &str) -> Result<PathBuf> {
    let own = env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|directory| directory.join(name));
    let found = found.filter(|path| path.is_file()).last();
    found.ok_or_else(|| anyhow!("no {name} beside {}", own.display()))
}
