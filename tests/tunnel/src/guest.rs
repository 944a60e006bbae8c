//! A small virtual machine on a network namespace's bridge: the kernel's own WireGuard.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{
    netns::{Netns, unique},
    peers::{self, Machine},
};

/// Longest time until the guest's shell answers, emulated on a busy machine.
const BOOT: Duration = Duration::from_secs(300);
/// Longest time a command in the guest may take.
const COMMAND: Duration = Duration::from_secs(180);
/// Lines of this prefix end a command's output.
const MARK: &str = "@@";

/// A running guest; dropping it ends it.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    console: Mutex<Console>,
    files: [PathBuf; 2],
}

#[derive(Debug)]
struct Console {
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Guest {
    /// Boots a guest whose `eth0` is the other end of a new tap interface `tap` in `namespace`.
    ///
    /// # Errors
    /// When a part of the machine is missing or its shell does not answer.
    pub fn boot(namespace: &Netns, tap: &str, mtu: u32) -> Result<Self> {
        let machine = Machine::get()?;
        namespace.sh(&format!("ip tuntap add {tap} mode tap; ip link set {tap} mtu {mtu} up"))?;
        let name = format!("slicewire-guest-{}-{}", std::process::id(), unique());
        let log = std::env::temp_dir().join(format!("{name}.log"));
        let initrd = log.with_extension("initrd");
        let programs = [peers::slice_gateway()?.path, peers::beside_tests("tunnel-pinger")?];
        machine.initrd_with(&programs, &initrd)?;
        let mut command = namespace.command(&machine.qemu.path)?;
        machine.qemu.prepare(&mut command);
        for directory in &machine.firmware {
            command.arg("-L").arg(directory);
        }
        arguments(&mut command, &machine, tap, mtu);
        command.arg("-initrd").arg(&initrd);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&log)?);
        let mut child = command.spawn().context("cannot start QEMU")?;
        let input = child.stdin.take().context("QEMU has no input")?;
        let output = child.stdout.take().context("QEMU has no output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).split(b'\n').map_while(Result::ok);
            for line in lines {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        let guest =
            Self { child, console: Mutex::new(Console { input, lines }), files: [log, initrd] };
        guest.answer(BOOT).with_context(|| {
            let text = std::fs::read_to_string(&guest.files[0]).unwrap_or_default();
            format!("the guest did not boot: {text}")
        })?;
        guest.sh("ip link set eth0 up; sysctl -qw net.ipv6.conf.all.accept_dad=0 \
                  net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.eth0.accept_dad=0")?;
        guest.sh(&format!("ip link set eth0 mtu {mtu}"))?;
        Ok(guest)
    }

    /// Runs a shell script in the guest and returns what it wrote.
    ///
    /// # Errors
    /// When a command of it fails, or the guest does not answer in three minutes.
    pub fn sh(&self, script: &str) -> Result<String> {
        let one_line = script.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        ensure!(one_line.len() < 4000, "a script of more than a terminal's line");
        {
            let mut console = self.console.lock().map_err(|_| anyhow!("console poisoned"))?;
            writeln!(console.input, "{one_line}")?;
            console.input.flush()?;
        }
        let (code, text) = self.answer(COMMAND).with_context(|| format!("in guest: {script}"))?;
        ensure!(code == "0", "in guest: {script} ended with {code}:\n{text}");
        Ok(text)
    }

    fn answer(&self, limit: Duration) -> Result<(String, String)> {
        let console = self.console.lock().map_err(|_| anyhow!("console poisoned"))?;
        let mut text = String::new();
        loop {
            match console.lines.recv_timeout(limit) {
                Ok(line) => match line.split_once(MARK) {
                    Some((rest, code)) => return Ok((code.to_owned(), text + rest)),
                    None => text.extend([line.as_str(), "\n"]),
                },
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no answer after {limit:?}; so far: {text}")
                }
                Err(RecvTimeoutError::Disconnected) => bail!("QEMU ended; last words: {text}"),
            }
        }
    }
}

/// No timer check: on a busy machine the emulated timer looks broken and the kernel gives up.
/// Emulated, not virtualised: nested KVM is not everywhere, and where it is not QEMU may hang.
fn arguments(command: &mut Command, machine: &Machine, tap: &str, mtu: u32) {
    let network = format!("tap,id=net,ifname={tap},script=no,downscript=no");
    let device = format!("virtio-net-pci,netdev=net,host_mtu={mtu},romfile=");
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "384", "-smp", "1"]);
    command.args(["-serial", "stdio", "-netdev", &network, "-device", &device]);
    command.arg("-kernel").arg(&machine.kernel);
    command.args(["-append", "quiet loglevel=0 panic=-1 console=tty0 tsc=unstable no_timer_check"]);
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}
