//! Figures that change only when it matters, so that statuses are not written all the time.

use slicewire_api::{GatewayLaneStatus, TunnelStatus};

/// Keeps what has hardly changed: figures within a quarter of the old one, handshakes younger than
/// two minutes after it.
pub(super) fn settle(old: &[GatewayLaneStatus], new: &mut [GatewayLaneStatus]) {
    for lane in new {
        let Some(before) = old.iter().find(|l| l.lane == lane.lane) else { continue };
        for tunnel in &mut lane.tunnels {
            if let Some(before) = before.tunnels.iter().find(|t| t.cluster == tunnel.cluster) {
                settle_tunnel(before, tunnel);
            }
        }
    }
}

fn settle_tunnel(old: &TunnelStatus, new: &mut TunnelStatus) {
    if old.up != new.up {
        return;
    }
    if let (Some(before), Some(now)) = (old.rtt_micros, new.rtt_micros)
        && ((before - now).abs() * 4 <= before.max(now) || before.max(now) < 500)
    {
        new.rtt_micros = old.rtt_micros;
    }
    if let (Some(before), Some(now)) = (old.loss_permille, new.loss_permille) {
        // Nothing lost is always told; a little more or less is not.
        if (before == 0) == (now == 0) && (before - now).abs() <= before.max(now) / 4 + 5 {
            new.loss_permille = old.loss_permille;
        }
    }
    if let (Some(before), Some(now)) = (minutes(old), minutes(new))
        && (0..2).contains(&(now - before))
    {
        new.last_handshake.clone_from(&old.last_handshake);
    }
}

fn minutes(tunnel: &TunnelStatus) -> Option<i64> {
    let time: k8s_openapi::jiff::Timestamp = tunnel.last_handshake.as_ref()?.parse().ok()?;
    Some(time.as_second() / 60)
}

/// Two significant digits.
pub(in crate::worker) fn two_digits(figure: u64) -> i64 {
    let mut scale = 1;
    while figure / scale >= 100 {
        scale *= 10;
    }
    i64::try_from((figure + scale / 2) / scale * scale).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(tunnel: TunnelStatus) -> Vec<GatewayLaneStatus> {
        vec![GatewayLaneStatus { tunnels: vec![tunnel], ..GatewayLaneStatus::default() }]
    }

    fn tunnel(rtt: i64, loss: i32, handshake: &str) -> TunnelStatus {
        TunnelStatus {
            cluster: "west".into(),
            up: true,
            rtt_micros: Some(rtt),
            loss_permille: Some(loss),
            last_handshake: Some(handshake.into()),
            ..TunnelStatus::default()
        }
    }

    #[test]
    fn two_significant_digits() {
        for (from, to) in [(0, 0), (7, 7), (99, 99), (123, 120), (1_256, 1_300), (99_999, 100_000)]
        {
            assert_eq!(two_digits(from), to);
        }
    }

    #[test]
    fn what_hardly_changes_stays_and_what_matters_is_told() {
        let old = lane(tunnel(1000, 100, "2026-01-01T10:00:00Z"));
        let settled = |rtt, loss, at| {
            let mut new = lane(tunnel(rtt, loss, at));
            settle(&old, &mut new);
            new == old
        };
        assert!(settled(1200, 110, "2026-01-01T10:01:00Z"));
        assert!(!settled(1500, 100, "2026-01-01T10:00:00Z"));
        assert!(!settled(1000, 0, "2026-01-01T10:00:00Z"));
        assert!(!settled(1000, 100, "2026-01-01T10:02:00Z"));
    }
}
