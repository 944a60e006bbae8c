//! Interoperation with every other WireGuard, and theirs with each other as the control group:
//! where a control pair passes a scenario, the scenario asks for nothing that WireGuard does not
//! give.
//!
//! Topology "two ends and a router": see `slicewire_tunnel_tests::lab`. Needs root.

mod control;
mod guests;
mod hostile;
mod long;
mod offloads;
mod renewal;
mod scenarios;
mod standalone;

use slicewire_tunnel_tests::device::Implementation::{
    self, Boringtun, Gotatun, Kernel, Ours, WireguardGo, WireguardGoDebian,
};

/// One test per scenario for a pair of implementations.
macro_rules! tests {
    ($left:ident, $right:ident: $($module:ident::$scenario:ident)*) => {
        const PAIR: (super::Implementation, super::Implementation) = (super::$left, super::$right);
        $(#[test]
        fn $scenario() -> anyhow::Result<()> {
            super::$module::$scenario(PAIR.0, PAIR.1)
        })*
    };
}

/// All scenarios for pairs in namespaces.
macro_rules! pairs {
    ($($name:ident: $left:ident, $right:ident;)*) => {$(
        mod $name {
            tests! { $left, $right:
                scenarios::handshake_from_either_side
                scenarios::both_families_inside_and_outside
                scenarios::preshared_keys
                scenarios::wrong_keys_carry_nothing
                scenarios::keepalive_without_traffic
                scenarios::either_side_roams
                scenarios::a_peer_is_set_anew_under_traffic
                scenarios::mtu_1280_to_9000
                hostile::replayed_packets
                hostile::reordered_packets
                hostile::truncated_packets
                hostile::corrupted_packets
                hostile::handshake_over_a_lossy_path
                hostile::cookie_reply_under_load
                hostile::spoofed_inner_source
            }
        }
    )*};
}

pairs! {
    ours_with_wireguard_go: Ours, WireguardGo;
    ours_with_wireguard_go_debian: Ours, WireguardGoDebian;
    ours_with_boringtun: Ours, Boringtun;
    ours_with_gotatun: Ours, Gotatun;
    ours_with_ours: Ours, Ours;
    control_wireguard_go_with_gotatun: WireguardGo, Gotatun;
    control_wireguard_go_with_boringtun: WireguardGo, Boringtun;
}

mod ours_with_ours_and_empty_datagrams {
    tests! { Ours, Ours: hostile::empty_datagrams }
}

mod ours_with_gotatun_and_empty_datagrams {
    tests! { Ours, Gotatun: hostile::empty_datagrams }
}

mod ours_with_ours_and_strangers {
    tests! { Ours, Ours: hostile::flood_beside_traffic }
}

mod ours_with_wireguard_go_and_garbage {
    tests! { Ours, WireguardGo: hostile::garbage_inside }
}

/// Scenarios for pairs with a guest: each boots an emulated machine, so they are fewer.
macro_rules! guest_pairs {
    ($($name:ident: $left:ident, $right:ident;)*) => {$(
        mod $name {
            tests! { $left, $right:
                scenarios::a_good_network_and_a_guest
                hostile::a_bad_network_and_a_guest
            }
        }
    )*};
}

guest_pairs! {
    ours_with_the_kernel: Ours, Kernel;
    control_wireguard_go_with_the_kernel: WireguardGo, Kernel;
}
