//! The kernel's WireGuard where there is one, and a clear answer where there is none.

use std::collections::BTreeSet;

use slicewire_kernel::{
    Kernel, LinkEnd, LinkKind, Network as _, Op, WireguardKey, WireguardPeer, WireguardUpdate,
};

use crate::lab::{Lab, net};

fn peer(key: u8) -> WireguardPeer {
    WireguardPeer {
        public_key: WireguardKey([key; 32]),
        preshared_key: Some(WireguardKey([9; 32])),
        endpoint: Some("192.0.2.1:30001".parse().unwrap()),
        allowed_ips: BTreeSet::from([net("10.30.0.0/16"), net("fd00:30::/48")]),
        keepalive: Some(5),
    }
}

#[tokio::test]
async fn a_device_is_set_and_read_back_or_honestly_unsupported() {
    let mut lab = Lab::new("wg");
    let ns = lab.ns("g").await;
    let available = Kernel::new().wireguard_available().await;
    let made = ns.sequence(vec![Op::AddWireguard { end: LinkEnd::new("swwg0") }]).await;
    if !available {
        let errors = made.unwrap_err();
        assert_eq!(errors.reason(), "Unsupported", "{errors}");
        let error = ns.wireguard("swwg0").await.unwrap_err();
        assert_eq!(error.reason(), "NoSuchDevice", "{error}");
        return;
    }
    made.unwrap();
    let update = WireguardUpdate {
        private_key: Some(WireguardKey([0x48; 32])),
        listen_port: Some(51820),
        fwmark: None,
        set_peers: vec![peer(1), peer(2)],
        remove_peers: vec![],
    };
    ns.set_wireguard("swwg0", update).await.unwrap();
    let remove = vec![WireguardKey([1; 32])];
    let update = WireguardUpdate { remove_peers: remove, ..WireguardUpdate::default() };
    ns.set_wireguard("swwg0", update).await.unwrap();
    let device = ns.wireguard("swwg0").await.unwrap();
    assert_eq!(device.listen_port, Some(51820));
    let peers: Vec<_> = device.peers.into_iter().map(|state| state.peer).collect();
    assert_eq!(peers, [peer(2)]);
    assert_eq!(ns.observe().await.unwrap().link("swwg0").unwrap().kind, LinkKind::Wireguard);
}
