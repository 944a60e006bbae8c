//! A virtual machine whose kernel has WireGuard: Debian's cloud kernel, its modules and an
//! initial file system with this machine's `ip`, `wg` and `ping`.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    peers::{
        Program, Unpacked, cached,
        debian::{first_dependency, unpack, unpack_with_dependencies},
    },
    process::output,
};

/// Modules the guest loads; what they depend on comes first.
const MODULES: [&str; 4] = ["virtio_pci", "virtio_net", "wireguard", "tun"];

/// Programs of this machine that the guest gets, with their libraries.
const PROGRAMS: [&str; 3] = ["ip", "wg", "ping"];

/// What the guest's first process does: load the modules, then run what the first serial port
/// says, line by line, each answered by its output and a line `@@<exit code>`. Busybox's shell
/// takes its own `ip` and `ping` over the ones in `/bin` unless told otherwise.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd
ln -s /proc/self/fd/0 /dev/stdin
while read -r module; do insmod "/modules/$module"; done < /modules/order
ip link set lo up
stty -F /dev/ttyS0 raw -echo
exec < /dev/ttyS0 > /dev/ttyS0 2>&1
echo @@0
own='ip() { /bin/ip "$@"; }; ping() { /bin/ping "$@"; };'
while read -r line; do sh -ec "$own $line" < /dev/null; echo "@@$?"; done
"#;

/// Everything QEMU is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// The emulator.
    pub qemu: Program,
    /// Its firmware and option ROMs, for `-L`.
    pub firmware: Vec<PathBuf>,
    /// The kernel.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initrd: PathBuf,
}

impl Machine {
    /// The cached parts, made when missing.
    ///
    /// # Errors
    /// When a package cannot be downloaded or this machine lacks one of the programs.
    pub fn get() -> Result<Self> {
        let qemu = cached("qemu", |place| {
            unpack_with_dependencies("qemu-system-x86", place)?;
            Ok(())
        })?;
        let guest = cached("linux-guest-tun", build_guest)?;
        let unpacked = Unpacked::at(qemu);
        let firmware = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];
        Ok(Self {
            qemu: unpacked.program("usr/bin/qemu-system-x86_64"),
            firmware: firmware.iter().map(|path| unpacked.path(path)).collect(),
            kernel: guest.join("kernel"),
            initrd: guest.join("initrd"),
        })
    }
}

impl Machine {
    /// An initial file system for one guest, at `place`: the cached one, and on top of it these
    /// programs of this machine. (Linux unpacks one archive behind the other.)
    ///
    /// # Errors
    /// When a program is not there or the disk is full.
    pub fn initrd_with(&self, programs: &[PathBuf], place: &Path) -> Result<()> {
        let root = place.with_extension("root");
        fs::create_dir_all(root.join("bin"))?;
        for program in programs {
            install_program(program, &root)?;
        }
        let top = place.with_extension("top");
        pack(&self.busybox(), &root, &top)?;
        fs::remove_dir_all(&root)?;
        // Each archive begins at a multiple of four bytes.
        let mut whole = fs::read(&self.initrd)?;
        whole.resize(whole.len().next_multiple_of(4), 0);
        whole.extend(fs::read(&top)?);
        fs::remove_file(top)?;
        Ok(fs::write(place, whole)?)
    }

    fn busybox(&self) -> PathBuf {
        self.initrd.with_file_name("busybox")
    }
}

fn build_guest(place: &Path) -> Result<()> {
    let packages = place.join("packages");
    unpack(&first_dependency("linux-image-cloud-amd64")?, &packages)?;
    let busybox = unpack("busybox-static", &packages)?.path("bin/busybox");
    let kernel = only_file(&packages.join("boot"), "vmlinuz-")?;
    fs::copy(kernel, place.join("kernel"))?;
    let root = place.join("root");
    for directory in ["bin", "dev", "proc", "sys", "tmp", "run", "modules"] {
        fs::create_dir_all(root.join(directory))?;
    }
    install_modules(&packages.join("lib/modules"), &root.join("modules"))?;
    install_busybox(&busybox, &root.join("bin"))?;
    fs::copy(&busybox, place.join("busybox"))?;
    for program in PROGRAMS {
        install_program(&locate(program)?, &root)?;
    }
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    pack(&busybox, &root, &place.join("initrd"))?;
    fs::remove_dir_all(&packages)?;
    Ok(fs::remove_dir_all(&root)?)
}

fn install_busybox(busybox: &Path, bin: &Path) -> Result<()> {
    fs::copy(busybox, bin.join("busybox"))?;
    for applet in output(Command::new(busybox).arg("--list"))?.lines() {
        if !PROGRAMS.contains(&applet) && applet != "busybox" {
            symlink("busybox", bin.join(applet))?;
        }
    }
    Ok(())
}

/// Where this machine has a program.
fn locate(program: &str) -> Result<PathBuf> {
    let script = format!("PATH=$PATH:/sbin:/usr/sbin command -v {program}");
    let found = output(Command::new("sh").args(["-c", &script]))
        .with_context(|| format!("this machine has no {program}: install it"))?;
    Ok(found.trim().into())
}

/// Copies a program and, at their own paths, the libraries that ldd names.
fn install_program(program: &Path, root: &Path) -> Result<()> {
    let name = program.file_name().context("a program has no name")?;
    let target = root.join("bin").join(name);
    let strip = Command::new("strip").arg("-o").arg(&target).arg(program).output();
    if !strip.is_ok_and(|done| done.status.success()) {
        // Only larger with what debuggers want.
        fs::copy(program, &target)?;
    }
    let listed = output(Command::new("ldd").arg(program))?;
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for library in libraries {
        let target = root.join(library.trim_start_matches('/'));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(library, target)?;
    }
    Ok(())
}

/// Copies the modules, each after those it depends on, and writes that order down.
fn install_modules(tree: &Path, target: &Path) -> Result<()> {
    let mut found = Vec::new();
    walk(tree, &mut found)?;
    let mut order = Vec::new();
    for module in MODULES {
        resolve(module, &found, &mut order)?;
    }
    let mut names = String::new();
    for path in &order {
        let name = path.file_name().context("a module has no name")?;
        fs::copy(path, target.join(name))?;
        names.push_str(&format!("{}\n", name.to_string_lossy()));
    }
    Ok(fs::write(target.join("order"), names)?)
}

/// Appends `module` after its dependencies, as its `depends=` field names them. A name that no
/// file has is built into the kernel.
fn resolve(module: &str, found: &[PathBuf], order: &mut Vec<PathBuf>) -> Result<()> {
    let same = |path: &&PathBuf| {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().replace('-', "_"));
        stem.is_some_and(|stem| stem == module.replace('-', "_"))
    };
    let Some(path) = found.iter().find(same) else { return Ok(()) };
    if order.contains(path) {
        return Ok(());
    }
    let bytes = fs::read(path)?;
    let fields: BTreeSet<String> = bytes
        .split(|byte| *byte == 0)
        .filter_map(|field| field.strip_prefix(b"depends="))
        .flat_map(|list| list.split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    for dependency in fields.iter().filter(|name| !name.is_empty()) {
        resolve(dependency, found, order)?;
    }
    order.push(path.clone());
    Ok(())
}

fn walk(directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            walk(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            found.push(path);
        }
    }
    Ok(())
}

fn only_file(directory: &Path, prefix: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            return Ok(entry.path());
        }
    }
    bail!("no {prefix}* in {}", directory.display())
}

fn pack(busybox: &Path, root: &Path, initrd: &Path) -> Result<()> {
    let script = r#""$0" find . | "$0" cpio -o -H newc > "$1" 2>/dev/null"#;
    let mut command = Command::new("sh");
    command.args(["-ec", script]).arg(busybox).arg(initrd).current_dir(root);
    output(command.stderr(Stdio::null())).map(drop)
}
