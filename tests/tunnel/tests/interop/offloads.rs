//! Kernels and devices that lack offloads: found out and done without.

use anyhow::{Result, ensure};
use slicewire_tunnel_tests::{
    device::{
        Implementation::{self, Ours},
        Settings,
    },
    lab::{
        Family::{V4, V6},
        Lab, PORT,
        Side::{Left, Right},
    },
    lacking::{ALL, Lack},
    traffic::Pings,
};

use crate::scenarios::lossless;

const MTU: u32 = 1420;
/// Enough for thousands of super-packets.
const BYTES: usize = 8 << 20;

/// One side lacks something, the other may have everything: streams and packets pass both ways.
fn without(lacks: &'static [Lack], other: Implementation) -> Result<()> {
    let settings = Settings { lacks, ..Settings::new(PORT, MTU) };
    let lab = Lab::with(Ours, other, settings)?;
    let (has, log) = (|lack| !lacks.contains(&lack), lab.left.device.log());
    for (field, expected) in [("gso", has(Lack::UdpSegmentation)), ("gro", has(Lack::UdpJoining))] {
        ensure!(
            log.contains(&format!("\"{field}\":{expected}")),
            "{field} is not {expected}: {log}"
        );
    }
    let name = lab.left.device.name();
    let features = lab.left.host.sh(&format!("ethtool -k {name}"))?;
    let device = has(Lack::VnetHeader) && has(Lack::TunOffloads);
    for (feature, expected) in [
        ("tcp-segmentation-offload", device),
        ("tx-udp-segmentation", device && has(Lack::TunUdpSegmentation)),
    ] {
        let expected = format!("{feature}: {}", if expected { "on" } else { "off" });
        ensure!(features.contains(&expected), "not {expected}: {features}");
    }
    passes(&lab)
}

fn passes(lab: &Lab) -> Result<()> {
    lab.introduce(Left, V4)?;
    lab.establish(Left, V4, 15)?;
    for family in [V4, V6] {
        lab.transfer(family, BYTES)?;
        for side in [Left, Right] {
            lossless(lab, side, family, Pings::many(50, 5).sized(MTU - 48))?;
        }
    }
    Ok(())
}

#[test]
fn no_header_with_offloads() -> Result<()> {
    without(&[Lack::VnetHeader], Implementation::WireguardGo)
}

#[test]
fn no_offloads_of_the_device() -> Result<()> {
    without(&[Lack::TunOffloads], Implementation::WireguardGo)
}

#[test]
fn no_udp_segmentation_of_the_device() -> Result<()> {
    without(&[Lack::TunUdpSegmentation], Implementation::WireguardGo)
}

#[test]
fn no_segmentation_of_datagrams() -> Result<()> {
    without(&[Lack::UdpSegmentation], Implementation::WireguardGo)
}

#[test]
fn no_joining_of_datagrams() -> Result<()> {
    without(&[Lack::UdpJoining], Implementation::WireguardGo)
}

#[test]
fn nothing_at_all_on_either_side() -> Result<()> {
    without(&ALL, Ours)
}

/// The socket takes trains of datagrams, but the device they leave by cannot do their checksums:
/// shown by the first train, and not before.
#[test]
fn no_checksums_on_the_way_out() -> Result<()> {
    let lab = Lab::new(Ours, Ours, MTU)?;
    for end in [&lab.left, &lab.right] {
        end.host.sh(&format!("ethtool -K {} tx off", end.uplink))?;
        let off = end.host.sh(&format!("ethtool -k {}", end.uplink))?;
        ensure!(off.contains("tx-checksumming: off"), "{off}");
    }
    passes(&lab)
}
