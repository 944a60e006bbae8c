//! The program alone, from a file in wg-quick's format.

use std::{fs, path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use slicewire_tunnel_tests::{
    device::{
        Implementation::{Ours, WireguardGo},
        Peer,
    },
    keys::KeyPair,
    lab::{
        Family::V4,
        Lab, PORT,
        Side::{Left, Right},
        socket,
    },
    netns::{Netns, unique},
    peers,
    process::Daemon,
    traffic::{Pings, ping},
};

/// A file that is removed when dropped, and the device of its name.
struct File {
    device: String,
    path: PathBuf,
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// What makes a device what it is: settings, addresses, routes, MTU.
#[derive(Debug, PartialEq, Eq)]
struct State {
    settings: Vec<String>,
    addresses: Vec<String>,
    routes: Vec<String>,
}

fn state(namespace: &Netns, device: &str) -> Result<State> {
    let lines = |script: String, keep: &dyn Fn(&str) -> String| -> Result<Vec<String>> {
        let text = namespace.sh(&script)?;
        let mut lines: Vec<String> = text.lines().map(|line| keep(line.trim())).collect();
        lines.retain(|line| !line.is_empty());
        lines.sort();
        Ok(lines)
    };
    // Who made a route, and links' flags, are each program's own.
    let route = |line: &str| {
        let words = line.split(" proto ").next().unwrap_or_default().split(" scope ").next();
        words.unwrap_or_default().split(" metric ").next().unwrap_or_default().to_owned()
    };
    let address = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first().is_some_and(|word| word.starts_with("inet"))
            && words[1].starts_with("fe80")
        {
            return String::new();
        }
        words.get(..2).filter(|w| w[0].starts_with("inet")).map(|w| w.join(" ")).unwrap_or_default()
    };
    let routes = format!(
        "ip -4 route show dev {device}; ip -6 route show dev {device} | grep -v fe80;
         cat /sys/class/net/{device}/mtu 2>/dev/null || ip link show {device} | grep -o 'mtu [0-9]*'"
    );
    Ok(State {
        settings: lines(format!("wg showconf {device}"), &str::to_owned)?,
        addresses: lines(format!("ip addr show dev {device}"), &address)?,
        routes: lines(routes, &route)?,
    })
}

/// The same file with wg-quick and wireguard-go, and with our program: the same device, and
/// traffic with the same peer. Read again, it changes what changed; ended, it leaves nothing.
#[test]
fn a_file_of_wg_quick_is_taken_as_it_is() -> Result<()> {
    let lab = Lab::new(Ours, WireguardGo, 1420)?;
    let keys = KeyPair::generate();
    let here = lab.left.host.namespace().context("no namespace")?;
    let device = format!("q{}n{}", std::process::id() % 1_000_000, unique());
    let path = std::env::temp_dir().join(format!("{device}.conf"));
    let file = File { device, path };
    let text = format!(
        "# A comment\n[Interface]\nPrivateKey = {}\nListenPort = 51999\n\
         Address = 10.98.0.1/24, fd98::1/64\nMTU = 1380\n\n\
         [Peer]\nPublicKey={}\nAllowedIPs = 10.99.0.2/32, fd99::2/128\nAllowedIPs = 10.55.0.0/16\n\
         Endpoint = {}\nPersistentKeepalive = 15\n",
        keys.private(),
        lab.right.keys.public(),
        socket(&Right.outer(V4, 2), PORT)
    );
    fs::write(&file.path, &text)?;
    let allowed = vec!["10.98.0.1/32".to_owned(), "fd98::1/128".to_owned()];
    lab.set(Right, &Peer { public: keys.public(), allowed, ..Peer::default() })?;
    let far = lab.right.device.name();
    lab.right.host.sh(&format!("ip route add 10.98.0.0/24 dev {far}"))?;

    let wireguard_go = peers::wireguard_go()?.path;
    let quick = |verb: &str| {
        let program = wireguard_go.display();
        let file = file.path.display();
        here.sh(&format!("WG_QUICK_USERSPACE_IMPLEMENTATION={program} wg-quick {verb} {file} 2>&1"))
    };
    quick("up")?;
    let theirs = state(here, &file.device)?;
    let answered = talks(&lab);
    quick("down")?;
    answered.context("by wg-quick")?;

    let log = file.path.with_extension("log");
    let program = peers::slice_gateway()?.path;
    let mut command = here.command(&program)?;
    command.args(["run", "--config"]).arg(&file.path);
    let mut running = Daemon::start("slice-gateway", &mut command, log.clone())?;
    let done = || fs::read_to_string(&log).is_ok_and(|text| text.contains("device is up"));
    running.wait_until(Duration::from_secs(60), done)?;
    let ours = state(here, &file.device)?;
    ensure!(ours == theirs, "ours: {ours:#?}\nwg-quick's: {theirs:#?}");
    talks(&lab)?;

    read_again(&lab, here, &file, &mut running, &text)?;
    kill(pid(&running)?, Signal::SIGTERM)?;
    let gone = format!(
        "! ip link show {0} 2>/dev/null && ! test -e /var/run/wireguard/{0}.sock",
        file.device
    );
    for _ in 0..100 {
        if here.sh(&gone).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(100));
    }
    bail!("it left its device behind:\n{}", running.log_tail())
}

fn pid(running: &Daemon) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(running.pid())?))
}

/// What changed in the file takes effect, in the same session; what cannot be used does not.
fn read_again(
    lab: &Lab,
    here: &Netns,
    file: &File,
    running: &mut Daemon,
    text: &str,
) -> Result<()> {
    let route =
        |prefix| format!("ip route show dev {} 2>/dev/null | grep -q {prefix}", file.device);
    let handshakes = format!("wg show {} latest-handshakes", file.device);
    let session = here.sh(&handshakes)?;
    fs::write(&file.path, text.replace("10.55.0.0/16", "10.56.0.0/16"))?;
    kill(pid(running)?, Signal::SIGHUP)?;
    running.wait_until(Duration::from_secs(60), || here.sh(&route("10.56")).is_ok())?;
    ensure!(here.sh(&route("10.55")).is_err(), "a route of the file before is still there");
    ensure!(here.sh(&handshakes)? == session, "the session was not kept");
    talks(lab)?;
    fs::write(&file.path, text.replace("MTU = 1380", "MTU = many"))?;
    kill(pid(running)?, Signal::SIGHUP)?;
    thread::sleep(Duration::from_millis(500));
    let stays = running.is_running() && here.sh(&route("10.56")).is_ok();
    ensure!(stays, "{}", running.log_tail());
    Ok(())
}

/// The right end answers by its address in the tunnel.
fn talks(lab: &Lab) -> Result<()> {
    for _ in 0..8 {
        if ping(&lab.left.host, &Right.inner(V4), Pings::one())?.received > 0 {
            let answers = ping(&lab.left.host, &Right.inner(V4), Pings::many(100, 5))?;
            ensure!(answers.received == answers.sent, "{answers:?}\n{}", lab.describe());
            return Ok(());
        }
    }
    bail!("no answer\n{}\n{}", lab.describe(), lab.end(Left).device.log())
}
