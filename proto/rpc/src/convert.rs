//! Between messages and the domain, at the border.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use slicewire_core::gateway::{Route, Routes, Traffic, Tunnel, Tunnels};
use slicewire_core::health::Health;
use slicewire_core::name::{Lane, SliceName};
use slicewire_core::prefix;
use slicewire_core::violation::Violation;

use crate::gateway::v1;

impl From<&Tunnels> for v1::WatchTunnelsResponse {
    fn from(from: &Tunnels) -> Self {
        Self {
            slice: from.slice.to_string(),
            cluster: from.cluster.clone(),
            lane: u32::from(from.lane),
            device: from.device.clone(),
            backend: from.backend.clone(),
            addresses: texts(&from.addresses),
            prefixes: texts(&from.prefixes),
            tunnels: from.tunnels.iter().map(v1::Tunnel::from).collect(),
        }
    }
}

impl From<&Tunnel> for v1::Tunnel {
    fn from(from: &Tunnel) -> Self {
        Self {
            cluster: from.cluster.clone(),
            public_key: from.public_key.to_vec(),
            addresses: texts(&from.addresses),
            prefixes: texts(&from.prefixes),
            endpoint: from.endpoint.map(|e| e.to_string()).unwrap_or_default(),
            last_handshake_ms: from.traffic.last_handshake_ms.unwrap_or(0),
            rx_bytes: from.traffic.rx_bytes,
            tx_bytes: from.traffic.tx_bytes,
            generation: from.generation,
            device: from.device.clone(),
            preshared: from.preshared,
        }
    }
}

impl TryFrom<v1::WatchTunnelsResponse> for Tunnels {
    type Error = Vec<Violation>;

    fn try_from(from: v1::WatchTunnelsResponse) -> Result<Self, Vec<Violation>> {
        let mut read = Reader::default();
        let slice = read.slice(&from.slice);
        let lane = read.lane(from.lane);
        let addresses = read.addresses("addresses", &from.addresses);
        let prefixes = read.prefixes("prefixes", &from.prefixes);
        let tunnels = from.tunnels.into_iter().enumerate();
        let tunnels = tunnels.filter_map(|(i, t)| read.tunnel(&format!("tunnels[{i}]"), t));
        let tunnels = tunnels.collect();
        let (cluster, device, backend) = (from.cluster, from.device, from.backend);
        read.finish(slice.zip(lane).map(|(slice, lane)| Self {
            slice,
            cluster,
            lane,
            device,
            backend,
            addresses,
            prefixes,
            tunnels,
        }))
    }
}

impl From<&Routes> for v1::WatchRoutesResponse {
    fn from(from: &Routes) -> Self {
        Self {
            slice: from.slice.to_string(),
            cluster: from.cluster.clone(),
            lane: u32::from(from.lane),
            backend: from.backend.clone(),
            routes: from.routes.iter().map(v1::Route::from).collect(),
        }
    }
}

impl From<&Route> for v1::Route {
    fn from(from: &Route) -> Self {
        Self {
            cluster: from.cluster.clone(),
            prefixes: texts(&from.prefixes),
            up: from.health.up,
            // Zero says unknown, so the fastest path there is takes a microsecond.
            rtt_micros: from.health.rtt.map_or(0, |rtt| micros(rtt).max(1)),
            jitter_micros: micros(from.health.jitter),
            loss_permille: u32::from(from.health.loss_permille),
            path_mtu: from.path_mtu.map_or(0, u32::from),
            last_handshake_ms: from.traffic.last_handshake_ms.unwrap_or(0),
            rx_bytes: from.traffic.rx_bytes,
            tx_bytes: from.traffic.tx_bytes,
            generation: from.generation,
            preshared: from.preshared,
        }
    }
}

impl TryFrom<v1::WatchRoutesResponse> for Routes {
    type Error = Vec<Violation>;

    fn try_from(from: v1::WatchRoutesResponse) -> Result<Self, Vec<Violation>> {
        let mut read = Reader::default();
        let slice = read.slice(&from.slice);
        let lane = read.lane(from.lane);
        let routes = from.routes.into_iter().enumerate();
        let routes = routes.map(|(i, route)| read.route(&format!("routes[{i}]"), route)).collect();
        let (cluster, backend) = (from.cluster, from.backend);
        read.finish(slice.zip(lane).map(|(slice, lane)| Self {
            slice,
            cluster,
            lane,
            backend,
            routes,
        }))
    }
}

/// Reads fields and gathers what is wrong with them.
#[derive(Default)]
struct Reader {
    faults: Vec<Violation>,
}

impl Reader {
    fn finish<T>(self, value: Option<T>) -> Result<T, Vec<Violation>> {
        match value {
            Some(value) if self.faults.is_empty() => Ok(value),
            _ => Err(self.faults),
        }
    }

    fn fault(&mut self, field: &str, value: impl Display, reason: &'static str, message: &str) {
        self.faults.push(Violation::new(field, value.to_string(), reason, message));
    }

    fn slice(&mut self, text: &str) -> Option<SliceName> {
        SliceName::parse(text)
            .map_err(|faults| {
                let at = |fault| Violation { field: "slice".to_owned(), ..fault };
                self.faults.extend(faults.into_iter().map(at));
            })
            .ok()
    }

    fn lane(&mut self, lane: u32) -> Option<Lane> {
        let read = Lane::try_from(lane).ok();
        if read.is_none() {
            self.fault("lane", lane, "LaneNumber", "is not the number of a lane; 0 to 255 are");
        }
        read
    }

    fn parsed<T: FromStr>(
        &mut self,
        field: &str,
        text: &str,
        reason: &'static str,
        message: &str,
    ) -> Option<T> {
        let read = text.parse().ok();
        if read.is_none() {
            self.fault(field, text, reason, message);
        }
        read
    }

    fn addresses(&mut self, field: &str, texts: &[String]) -> Vec<IpAddr> {
        let message = "is not an IP address; write it as 10.20.0.1 or fd00:20::1";
        let one = |(i, text): (usize, &String)| {
            self.parsed(&format!("{field}[{i}]"), text, "MalformedAddress", message)
        };
        texts.iter().enumerate().filter_map(one).collect()
    }

    fn prefixes(&mut self, field: &str, texts: &[String]) -> Vec<IpNet> {
        let one = |(i, text): (usize, &String)| {
            let read = prefix::parse(&format!("{field}[{i}]"), text);
            read.map_err(|fault| self.faults.push(fault)).ok()
        };
        texts.iter().enumerate().filter_map(one).collect()
    }

    fn tunnel(&mut self, at: &str, from: v1::Tunnel) -> Option<Tunnel> {
        let public_key = <[u8; 32]>::try_from(from.public_key.as_slice()).ok();
        if public_key.is_none() {
            let length = format!("{} bytes", from.public_key.len());
            self.fault(
                &format!("{at}.public_key"),
                length,
                "KeyLength",
                "is not a key of 32 bytes",
            );
        }
        let addresses = self.addresses(&format!("{at}.addresses"), &from.addresses);
        let prefixes = self.prefixes(&format!("{at}.prefixes"), &from.prefixes);
        let endpoint: Option<SocketAddr> = match from.endpoint.as_str() {
            "" => None,
            text => {
                let message = "is not an address and port; write it as 192.0.2.1:51820";
                self.parsed(&format!("{at}.endpoint"), text, "MalformedEndpoint", message)
            }
        };
        let traffic = traffic(from.last_handshake_ms, from.rx_bytes, from.tx_bytes);
        let v1::Tunnel { cluster, generation, device, preshared, .. } = from;
        public_key.map(|public_key| Tunnel {
            cluster,
            generation,
            device,
            preshared,
            public_key,
            addresses,
            prefixes,
            endpoint,
            traffic,
        })
    }

    fn route(&mut self, at: &str, from: v1::Route) -> Route {
        let prefixes = self.prefixes(&format!("{at}.prefixes"), &from.prefixes);
        let loss_permille = u16::try_from(from.loss_permille).ok().filter(|loss| *loss <= 1000);
        if loss_permille.is_none() {
            let field = format!("{at}.loss_permille");
            self.fault(&field, from.loss_permille, "LossRange", "is not in 0 to 1000");
        }
        let path_mtu = u16::try_from(from.path_mtu).ok();
        if path_mtu.is_none() {
            let field = format!("{at}.path_mtu");
            self.fault(&field, from.path_mtu, "MtuRange", "is larger than any IP packet");
        }
        let known = from.rtt_micros != 0;
        Route {
            cluster: from.cluster,
            prefixes,
            health: Health {
                up: from.up,
                rtt: known.then(|| Duration::from_micros(from.rtt_micros)),
                jitter: Duration::from_micros(from.jitter_micros),
                loss_permille: loss_permille.unwrap_or_default(),
            },
            path_mtu: path_mtu.filter(|mtu| *mtu != 0),
            traffic: traffic(from.last_handshake_ms, from.rx_bytes, from.tx_bytes),
            generation: from.generation,
            preshared: from.preshared,
        }
    }
}

fn traffic(last_handshake_ms: u64, rx_bytes: u64, tx_bytes: u64) -> Traffic {
    let last_handshake_ms = (last_handshake_ms != 0).then_some(last_handshake_ms);
    Traffic { last_handshake_ms, rx_bytes, tx_bytes }
}

fn texts<T: Display>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnels() -> Tunnels {
        Tunnels {
            slice: SliceName::parse("blue").unwrap(),
            cluster: "east".into(),
            lane: 3,
            device: "swwg0".into(),
            backend: "embedded".into(),
            addresses: vec!["10.20.0.1".parse().unwrap(), "fd00:20::1".parse().unwrap()],
            prefixes: vec!["10.20.0.0/16".parse().unwrap(), "fd00:20::/48".parse().unwrap()],
            tunnels: vec![Tunnel {
                cluster: "west".into(),
                generation: 3,
                device: "swwg1".into(),
                preshared: true,
                public_key: [9; 32],
                addresses: vec!["10.20.64.1".parse().unwrap()],
                prefixes: vec!["10.20.64.0/18".parse().unwrap()],
                endpoint: Some("[fd00::7]:31820".parse().unwrap()),
                traffic: Traffic { last_handshake_ms: Some(5), rx_bytes: 6, tx_bytes: 7 },
            }],
        }
    }

    fn routes() -> Routes {
        Routes {
            slice: SliceName::parse("blue").unwrap(),
            cluster: "east".into(),
            lane: 1,
            backend: "kernel".into(),
            routes: vec![Route {
                cluster: "west".into(),
                prefixes: vec!["fd00:20:0:4000::/50".parse().unwrap()],
                health: Health {
                    up: true,
                    rtt: Some(Duration::from_micros(1234)),
                    jitter: Duration::from_micros(56),
                    loss_permille: 78,
                },
                path_mtu: Some(1412),
                traffic: Traffic { last_handshake_ms: None, rx_bytes: 1, tx_bytes: 2 },
                generation: 4,
                preshared: true,
            }],
        }
    }

    #[test]
    fn tunnels_survive_the_wire() {
        assert_eq!(Tunnels::try_from(v1::WatchTunnelsResponse::from(&tunnels())), Ok(tunnels()));
        let mut unheard = tunnels();
        unheard.tunnels[0].endpoint = None;
        unheard.tunnels[0].traffic.last_handshake_ms = None;
        assert_eq!(Tunnels::try_from(v1::WatchTunnelsResponse::from(&unheard)), Ok(unheard));
    }

    #[test]
    fn routes_survive_the_wire() {
        assert_eq!(Routes::try_from(v1::WatchRoutesResponse::from(&routes())), Ok(routes()));
        let mut unknown = routes();
        unknown.routes[0].health = Health::default();
        unknown.routes[0].path_mtu = None;
        assert_eq!(Routes::try_from(v1::WatchRoutesResponse::from(&unknown)), Ok(unknown));
    }

    #[test]
    fn every_fault_is_told_with_its_place() {
        let mut message = v1::WatchTunnelsResponse::from(&tunnels());
        message.slice = "Blue".into();
        message.lane = 256;
        message.addresses[1] = "10.20.0.300".into();
        message.prefixes[0] = "10.20.0.1/16".into();
        message.tunnels[0].public_key.pop();
        message.tunnels[0].endpoint = "west:1".into();
        let faults = Tunnels::try_from(message).unwrap_err();
        let mut told: Vec<_> = faults.iter().map(|f| f.field.as_str()).collect();
        told.sort_unstable();
        told.dedup();
        assert_eq!(
            told,
            [
                "addresses[1]",
                "lane",
                "prefixes[0]",
                "slice",
                "tunnels[0].endpoint",
                "tunnels[0].public_key"
            ]
        );
    }

    #[test]
    fn figures_out_of_range_are_refused() {
        let mut message = v1::WatchRoutesResponse::from(&routes());
        message.routes[0].loss_permille = 1001;
        message.routes[0].path_mtu = 65_536;
        let faults = Routes::try_from(message).unwrap_err();
        let told: Vec<_> = faults.iter().map(|f| f.reason).collect();
        assert_eq!(told, ["LossRange", "MtuRange"]);
    }
}
