//! The program where Linux has WireGuard, in a guest.

use anyhow::{Context, Result, ensure};
use slicewire_tunnel_tests::{
    device::Implementation::{Ours, OursInGuest},
    lab::{
        Family::{V4, V6},
        Lab,
        Side::{Left, Right},
        socket,
    },
    traffic::Pings,
};

use crate::scenarios::lossless;

const MTU: u32 = 1420;

/// Where the kernel has WireGuard, its device is made and configured from the file, changed when
/// the file is read again, and removed at the end. Where it has not, the same command runs the
/// engine. Traffic passes either way.
#[test]
fn the_kernels_device_is_chosen_where_there_is_one() -> Result<()> {
    let lab = Lab::new(Ours, OursInGuest, MTU)?;
    let (guest, name) = (&lab.right.host, lab.right.device.name());
    let link = guest.sh(&format!("ip -d link show {name}"))?;
    ensure!(link.contains("wireguard"), "not the kernel's: {link}");
    chosen(&lab, "kernel")?;

    let peer = |keepalive: u16| {
        format!(
            "[Peer]\\nPublicKey = {}\\nAllowedIPs = 10.99.0.1/32, fd99::1/128\\n\
             PersistentKeepalive = {keepalive}\\n",
            lab.left.keys.public()
        )
    };
    // The first file has no peers.
    guest.sh(&format!("cp /tmp/{name}.conf /tmp/first"))?;
    let reload = |keepalive| {
        let peer = peer(keepalive);
        guest.sh(&format!(
            "cp /tmp/first /tmp/{name}.conf; printf '{peer}' >> /tmp/{name}.conf;
             kill -HUP $(pidof slice-gateway);
             for i in $(seq 50); do
               if wg show {name} persistent-keepalive | grep -qw {keepalive}; then exit 0; fi;
               usleep 100000;
             done; cat /tmp/{name}.log; false"
        ))
    };
    reload(20)?;
    let far = Some(socket(&Right.outer(V4, 2), 51820));
    lab.set(Left, &slicewire_tunnel_tests::device::Peer { endpoint: far, ..lab.peer_of(Left) })?;
    passes(&lab)?;
    let session = lab.right.device.peers(guest)?[0].handshake;
    reload(21)?;
    let state = lab.right.device.peers(guest)?;
    ensure!(state.len() == 1 && state[0].handshake == session, "the session was not kept");
    passes(&lab)?;

    let end = format!(
        "kill $(pidof slice-gateway);
         for i in $(seq 50); do
           if ! ip link show {name} 2>/dev/null && ! pidof slice-gateway; then exit 0; fi;
           usleep 100000;
         done; cat /tmp/{name}.log; false"
    );
    guest.sh(&end).context("the device stayed")?;

    // Now the same without the kernel's.
    guest.sh("rmmod wireguard")?;
    guest.sh(&format!(
        "slice-gateway run --config /tmp/{name}.conf > /tmp/{name}.log 2>&1 &
         for i in $(seq 100); do
           if grep -q 'device is up' /tmp/{name}.log; then exit 0; fi; usleep 100000;
         done; cat /tmp/{name}.log; false"
    ))?;
    chosen(&lab, "embedded")?;
    guest.sh(&format!("ip addr add 10.99.0.2/24 dev {name}; ip addr add fd99::2/64 dev {name}"))?;
    passes(&lab)?;
    guest.sh(&end).context("the engine's device stayed").map(drop)
}

fn chosen(lab: &Lab, backend: &str) -> Result<()> {
    let log = lab.right.host.sh(&format!("cat /tmp/{}.log", lab.right.device.name()))?;
    ensure!(log.contains(&format!("\"backend\":\"{backend}\"")), "not {backend}: {log}");
    Ok(())
}

fn passes(lab: &Lab) -> Result<()> {
    lab.establish(Left, V4, 20)?;
    for side in [Left, Right] {
        for family in [V4, V6] {
            lossless(lab, side, family, Pings::many(100, 5))?;
        }
        lossless(lab, side, V4, Pings::many(20, 10).sized(MTU - 28))?;
    }
    Ok(())
}
