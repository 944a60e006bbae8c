//! The programs ours is compared with: found in a cache, or built there from their registries.
//!
//! The cache is `$SLICEWIRE_CACHE`, else `$XDG_CACHE_HOME/slicewire`, else `~/.cache/slicewire`;
//! below it `peers/<program>/`. Delete a directory to have its program built anew. One lock per
//! program lets tests of several processes build side by side without doing it twice.

mod debian;
mod machine;
mod ours;
mod sources;

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

pub use debian::Unpacked;
pub use machine::Machine;
pub use ours::{beside_tests, slice_gateway};
pub use sources::{boringtun, gotatun, nebula, openvpn, wireguard_go, wireguard_go_debian};

/// A program and what it needs to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Libraries it needs that this machine does not have installed.
    pub libraries: Vec<PathBuf>,
}

impl Program {
    /// Sets what the program needs on a command made for its [`Program::path`].
    pub fn prepare(&self, command: &mut Command) {
        if let Ok(joined) = env::join_paths(&self.libraries)
            && !joined.is_empty()
        {
            command.env("LD_LIBRARY_PATH", joined);
        }
    }
}

/// The cache's directory for one program.
///
/// # Errors
/// When neither variable nor home directory says where the cache is.
fn directory(program: &str) -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let root = set("SLICEWIRE_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("slicewire")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/slicewire")))
        .context("no place for built programs: set SLICEWIRE_CACHE to a directory")?;
    Ok(root.join("peers").join(program))
}

/// Makes sure that `directory(program)/done` exists, by running `build` in the directory while
/// holding the program's lock.
fn cached(program: &str, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let place = directory(program)?;
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let done = place.join("done");
    if done.exists() {
        return Ok(place);
    }
    let lock = File::create(place.join("lock"))?;
    let _held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    if !done.exists() {
        let started = Instant::now();
        say(&format!("{program}: building into {}", place.display()));
        build(&place).with_context(|| format!("cannot build {program}"))?;
        File::create(&done)?;
        say(&format!("{program}: ready after {:.0} s", started.elapsed().as_secs_f64()));
    }
    Ok(place)
}

/// Progress goes to standard error, past the capture of test output.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "peers: {text}");
}
