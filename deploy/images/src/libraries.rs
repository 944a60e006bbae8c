//! The shared libraries of a binary.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The libraries a binary is linked to, the loader included, all the way down.
pub(crate) fn of(binary: &Path) -> Result<BTreeSet<PathBuf>> {
    if !binary.exists() {
        bail!("{} does not exist; build it first, or leave out --no-build", binary.display());
    }
    let output = Command::new("ldd").arg(binary).output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let missing: Vec<&str> =
        text.lines().filter(|l| l.contains("not found")).map(str::trim).collect();
    if !missing.is_empty() {
        bail!("{} needs libraries that are not here: {}", binary.display(), missing.join("; "));
    }
    // ldd fails on a static binary, which has no libraries.
    Ok(paths(&text))
}

/// The paths in what `ldd` prints.
fn paths(printed: &str) -> BTreeSet<PathBuf> {
    printed
        .lines()
        .filter_map(|line| {
            let named = line.split_once("=>").map_or(line, |(_, path)| path);
            let path = named.split_whitespace().next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .filter(|path| !path.to_string_lossy().ends_with(':'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_and_the_kernels_own_object_is_left_out() {
        let printed = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                       \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f10)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f11)\n";
        let found: Vec<PathBuf> = paths(printed).into_iter().collect();
        let wanted = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(found, wanted.map(PathBuf::from));
        assert!(paths("\tnot a dynamic executable\n").is_empty());
    }
}
