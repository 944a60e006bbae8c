//! The control socket, by the tools that speak to it: `wg` and the crate wireguard-control.

use std::{fs, thread};

use anyhow::{Context, Result, anyhow, ensure};
use slicewire_tunnel_tests::{
    device::Implementation::{Ours, WireguardGo},
    keys::{KeyPair, preshared},
    lab::{
        End,
        Family::V4,
        Lab, PORT,
        Side::{Left, Right},
        socket,
    },
    traffic::Pings,
};
use wireguard_control::{
    AllowedIp, Backend, Device, DeviceUpdate, InterfaceName, Key, PeerConfigBuilder,
};

use crate::scenarios::lossless;

/// Runs `wg` with a file of this content as its last argument.
fn wg(end: &End, verb: &str, content: &str) -> Result<()> {
    let file = std::env::temp_dir().join(format!("{}.wg", end.device.name()));
    fs::write(&file, content)?;
    let done = end.host.sh(&format!("wg {verb} {} {}", end.device.name(), file.display()));
    fs::remove_file(file)?;
    done.map(drop)
}

/// What `wg showconf` says, as lines in order of their text.
fn shown(end: &End) -> Result<Vec<String>> {
    let text = end.host.sh(&format!("wg showconf {}", end.device.name()))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.retain(|line| !line.is_empty());
    lines.sort();
    Ok(lines)
}

fn field(end: &End, name: &str) -> Result<String> {
    Ok(end.host.sh(&format!("wg show {} {name}", end.device.name()))?.trim().to_owned())
}

/// What is set is shown, what is changed takes effect, what is not mentioned stays, and sessions
/// of peers that stay go on.
#[test]
fn wg_sets_and_shows() -> Result<()> {
    let lab = Lab::new(Ours, WireguardGo, 1420)?;
    let (left, right) = (&lab.left, &lab.right);
    let (secret, other) = (preshared(), KeyPair::generate().public());
    let endpoint = socket(&Right.outer(V4, 2), PORT);
    let interface =
        format!("[Interface]\nListenPort = {PORT}\nPrivateKey = {}\n", left.keys.private());
    let peer = format!(
        "[Peer]\nPublicKey = {}\nPresharedKey = {secret}\nAllowedIPs = 10.99.0.2/32, fd99::2/128\n\
         Endpoint = {endpoint}\nPersistentKeepalive = 25\n",
        right.keys.public()
    );
    wg(left, "setconf", &format!("{interface}FwMark = 0x2a\n{peer}"))?;
    let mut expected: Vec<String> =
        format!("{interface}FwMark = 0x2a\n{peer}").lines().map(str::to_owned).collect();
    expected.sort();
    ensure!(shown(left)? == expected, "{:?} instead of {expected:?}", shown(left)?);
    for (name, value) in [
        ("public-key", left.keys.public()),
        ("private-key", left.keys.private()),
        ("listen-port", PORT.to_string()),
        ("fwmark", "0x2a".to_owned()),
        ("peers", right.keys.public()),
        ("preshared-keys", format!("{}\t{secret}", right.keys.public())),
        ("endpoints", format!("{}\t{endpoint}", right.keys.public())),
        ("allowed-ips", format!("{}\t10.99.0.2/32 fd99::2/128", right.keys.public())),
        ("persistent-keepalive", format!("{}\t25", right.keys.public())),
    ] {
        ensure!(field(left, name)? == value, "{name} is {:?}, not {value}", field(left, name)?);
    }
    let interfaces = left.host.sh("wg show interfaces")?;
    ensure!(interfaces.split_whitespace().any(|name| name == left.device.name()), "{interfaces}");

    let known = lab.peer_of(Right);
    lab.set(Right, &slicewire_tunnel_tests::device::Peer { preshared: Some(secret), ..known })?;
    lab.establish(Left, V4, 15)?;
    let session = left.device.peers(&left.host)?[0].handshake;
    // Another peer comes, the mark goes, another keepalive, one prefix more: under traffic, in one session.
    let new = format!("[Peer]\nPublicKey = {other}\nAllowedIPs = 10.98.0.0/16\n");
    let wider = peer.replace("fd99::2/128", "fd99::2/128, 10.97.0.0/16");
    let wider = wider.replace("PersistentKeepalive = 25\n", "PersistentKeepalive = 30\n");
    thread::scope(|scope| -> Result<()> {
        let traffic = scope.spawn(|| lossless(&lab, Left, V4, Pings::many(200, 10)));
        for _ in 0..3 {
            wg(left, "syncconf", &format!("{interface}{wider}{new}"))?;
            wg(left, "syncconf", &format!("{interface}{wider}"))?;
            wg(left, "addconf", &new)?;
        }
        traffic.join().map_err(|_| anyhow!("ping panicked"))?
    })?;
    ensure!(left.device.peers(&left.host)?.len() == 2, "{:?}", shown(left)?);
    let same = left.device.peers(&left.host)?.iter().any(|peer| peer.handshake == session);
    ensure!(same, "the session was not kept");
    let (mark, keepalive) = (field(left, "fwmark")?, field(left, "persistent-keepalive")?);
    ensure!(mark == "off" && keepalive.contains("\t30"), "{mark}, {keepalive}");

    // A prefix has one owner; removing a peer leaves the other alone.
    let name = left.device.name();
    left.host.sh(&format!("wg set {name} peer {other} allowed-ips 10.97.0.0/16"))?;
    ensure!(field(left, "allowed-ips")?.matches("10.97.0.0/16").count() == 1);
    left.host.sh(&format!("wg set {name} peer {other} remove"))?;
    ensure!(field(left, "peers")? == right.keys.public());
    lossless(&lab, Left, V4, Pings::many(100, 5))
}

/// What the tools refuse, and what is no request at all, changes nothing.
#[test]
fn nonsense_is_refused_as_a_whole() -> Result<()> {
    use std::io::{Read, Write};
    let lab = Lab::new(Ours, WireguardGo, 1420)?;
    let before = shown(&lab.left)?;
    let path = format!("/var/run/wireguard/{}.sock", lab.left.device.name());
    let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    for request in [
        format!("set=1\nlisten_port=70000\npublic_key={key}\n\n"),
        format!("set=1\npublic_key={key}\nallowed_ip=10.0.0.0/33\n\n"),
        format!("set=1\nlisten_port=7\npublic_key={}\n\n", &key[2..]),
        "set=1\nnobody=knows\n\n".to_owned(),
        "get=2\n\n".to_owned(),
    ] {
        let mut socket = std::os::unix::net::UnixStream::connect(&path)?;
        socket.write_all(request.as_bytes())?;
        socket.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        ensure!(answer.trim() == format!("errno={}", libc::EINVAL), "{request:?} → {answer:?}");
        ensure!(shown(&lab.left)? == before, "{request:?} changed something");
    }
    Ok(())
}

#[test]
fn wireguard_control_reads_and_writes() -> Result<()> {
    let lab = Lab::new(Ours, WireguardGo, 1420)?;
    let (left, right) = (&lab.left, &lab.right);
    let name: InterfaceName = left.device.name().parse()?;
    let key = |text: &str| Key::from_base64(text).map_err(|_| anyhow!("no key: {text}"));
    let public = key(&right.keys.public())?;
    let endpoint = socket(&Right.outer(V4, 2), PORT).parse()?;
    let peer = PeerConfigBuilder::new(&public)
        .set_endpoint(endpoint)
        .set_persistent_keepalive_interval(25)
        .add_allowed_ip("10.99.0.2".parse()?, 32)
        .add_allowed_ip("fd99::2".parse()?, 128);
    DeviceUpdate::new().set_fwmark(7).add_peer(peer).apply(&name, Backend::Userspace)?;
    lab.set(Right, &lab.peer_of(Right))?;
    lab.establish(Left, V4, 15)?;

    let device = Device::get(&name, Backend::Userspace)?;
    ensure!(device.listen_port == Some(PORT) && device.fwmark == Some(7), "{device:?}");
    ensure!(device.public_key == Some(key(&left.keys.public())?), "{device:?}");
    let found = device.peers.first().context("no peer")?;
    ensure!(found.config.public_key == public && found.config.endpoint == Some(endpoint));
    ensure!(found.config.persistent_keepalive_interval == Some(25));
    let prefix = |address: &str, cidr| Ok(AllowedIp { address: address.parse()?, cidr });
    let allowed: Result<Vec<_>> =
        [prefix("10.99.0.2", 32), prefix("fd99::2", 128)].into_iter().collect();
    ensure!(found.config.allowed_ips == allowed?, "{found:?}");
    ensure!(found.stats.last_handshake_time.is_some() && found.stats.rx_bytes > 0, "{found:?}");

    let remove = DeviceUpdate::new().remove_peer_by_key(&public);
    remove.apply(&name, Backend::Userspace)?;
    ensure!(Device::get(&name, Backend::Userspace)?.peers.is_empty());
    let more = DeviceUpdate::new().replace_peers().set_listen_port(PORT + 3);
    let more = more.set_private_key(key(&KeyPair::generate().private())?);
    more.apply(&name, Backend::Userspace)?;
    let device = Device::get(&name, Backend::Userspace)?;
    ensure!(device.listen_port == Some(PORT + 3), "{device:?}");
    ensure!(device.public_key != Some(key(&left.keys.public())?), "{device:?}");
    Ok(())
}
