//! The testbed's own images, made of what is built and installed here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::build::Toolset;
use crate::config::{COREDNS_IMAGE, PAUSE_IMAGE, TOOLBOX_IMAGE};
use crate::oci::{Image, Layer};
use crate::packages::find;
use crate::paths::Paths;
use crate::process::run;
use crate::progress::Progress;

/// Raised when the recipes below change.
const RECIPE: u8 = 2;

/// The programs of the toolbox that busybox does not have, or has too little of.
const TOOLBOX: &[&str] =
    &["iperf3", "ping", "curl", "tcpdump", "wg", "ip", "ss", "nft", "conntrack", "ethtool"];

/// Makes an image.
type Recipe = fn(&Toolset) -> Result<Image>;

/// Makes the archives that are missing; their paths.
pub fn ensure(paths: &Paths, tools: &Toolset, progress: &Progress) -> Result<Vec<PathBuf>> {
    let directory = paths.images().join(fingerprint(tools)?);
    let recipes: [(&str, Recipe); 3] =
        [("pause", pause), ("coredns", coredns), ("toolbox", toolbox)];
    let mut archives = Vec::new();
    for (name, recipe) in recipes {
        let archive = directory.join(format!("{name}.tar"));
        if !archive.exists() {
            progress.step(&format!("making the image of {name}"));
            let image = recipe(tools).with_context(|| format!("cannot make the image {name}"))?;
            image.write(&archive)?;
        }
        archives.push(archive);
    }
    Ok(archives)
}

/// What the images are made of, in a few digits: our programs, and the machine's.
fn fingerprint(tools: &Toolset) -> Result<String> {
    let mut hasher = Sha256::new();
    hasher.update([RECIPE]);
    hasher.update(&tools.hash);
    for program in TOOLBOX.iter().chain(&["busybox", "dash"]) {
        let meta = std::fs::metadata(program_path(program)?)?;
        hasher.update(format!("{program}\0{}\0{:?}\0", meta.len(), meta.modified()?));
    }
    Ok(hasher.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

fn program_path(program: &str) -> Result<PathBuf> {
    find(program).with_context(|| format!("{program} is not installed"))
}

fn pause(tools: &Toolset) -> Result<Image> {
    let mut layer = Layer::default();
    layer.copy(&tools.program("pause"), "pause")?;
    image(PAUSE_IMAGE, &["/pause"], layer)
}

fn coredns(tools: &Toolset) -> Result<Image> {
    let mut layer = base()?;
    add_program(&mut layer, &tools.program("coredns"), "coredns")?;
    image(COREDNS_IMAGE, &["/usr/bin/coredns"], layer)
}

fn toolbox(tools: &Toolset) -> Result<Image> {
    let mut layer = base()?;
    for program in TOOLBOX {
        add_program(&mut layer, &program_path(program)?, program)?;
    }
    layer.copy(&tools.program("echo-http"), "usr/bin/echo-http")?;
    // busybox's own shell would run its applets even where there is better.
    add_program(&mut layer, &program_path("dash")?, "dash")?;
    layer.link("usr/bin/sh", "dash")?;
    let busybox = program_path("busybox")?;
    layer.copy(&busybox, "usr/bin/busybox")?;
    for applet in run(Command::new(&busybox).arg("--list"))?.lines() {
        layer.link(&format!("usr/bin/{applet}"), "busybox")?;
    }
    layer.directory("tmp", 0o1777)?;
    image(TOOLBOX_IMAGE, &["/usr/bin/echo-http"], layer)
}

fn image(reference: &str, command: &[&str], layer: Layer) -> Result<Image> {
    Ok(Image {
        reference: reference.to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        layer: layer.finish()?,
    })
}

/// Directories and files without which the C library does not feel at home.
fn base() -> Result<Layer> {
    let mut layer = Layer::default();
    for link in ["bin", "sbin", "lib", "lib64"] {
        let target = if link == "sbin" { "usr/bin".to_owned() } else { format!("usr/{link}") };
        layer.link(link, &target)?;
    }
    layer.link("usr/sbin", "bin")?;
    let users = "root:x:0:0:root:/:/bin/sh\ntcpdump:x:100:100::/:/bin/false\nnobody:x:65534:65534::/:/bin/false\n";
    layer.file("etc/passwd", 0o644, users.as_bytes())?;
    layer.file("etc/group", 0o644, b"root:x:0:\ntcpdump:x:100:\nnogroup:x:65534:\n")?;
    layer.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n")?;
    Ok(layer)
}

/// A program of this machine with the libraries it is linked to.
fn add_program(layer: &mut Layer, program: &Path, name: &str) -> Result<()> {
    layer.copy(program, &format!("usr/bin/{name}"))?;
    for library in libraries(program)? {
        let path = library.to_string_lossy();
        let path = path.trim_start_matches('/');
        // /lib is a link to /usr/lib here and in the image, but need not be here.
        let path = if path.starts_with("usr/") { path.to_owned() } else { format!("usr/{path}") };
        layer.copy(&library, &path)?;
    }
    Ok(())
}

fn libraries(program: &Path) -> Result<BTreeSet<PathBuf>> {
    // It fails for a static program, which needs none.
    let listed = run(Command::new("ldd").arg(program)).unwrap_or_default();
    Ok(parse_ldd(&listed))
}

/// The absolute paths in what `ldd` prints.
fn parse_ldd(listed: &str) -> BTreeSet<PathBuf> {
    let words = listed.split_whitespace();
    words.filter(|word| word.starts_with('/') && !word.ends_with(':')).map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = parse_ldd(listed).into_iter().collect();
        assert_eq!(
            found,
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
    }
}
