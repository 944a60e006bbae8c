//! The gateway's part of its slice's ceiling, and the code point of the packets around the slice's.

use std::collections::BTreeMap;

use slicewire_core::qos::Qos;
use slicewire_core::qos::shape::{Limit, Shape};
use slicewire_kernel::{Error, Filter, Marked, NsId, Shaper};

/// What was last brought about.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// None before the first time: then what an earlier process left is not known.
    kept: Option<Option<Qos>>,
    failing: bool,
}

impl Limits {
    /// Keeps the devices within their limits and marks what is sent from the ports. A kernel that cannot
    /// is told of once: the nodes keep the slice's ceiling, too, and packets matter more.
    pub(super) async fn keep(&mut self, devices: &[&str], ports: [u16; 2], qos: Option<Qos>) {
        if qos.is_none() && self.kept == Some(None) {
            return;
        }
        match realise(devices, ports, qos).await {
            Ok(()) => {
                self.failing = false;
                self.kept = Some(qos);
            }
            // Where nothing is asked for, a kernel that lacks it all is as good.
            Err(_) if qos.is_none() => self.kept = Some(None),
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                let reason = error.reason();
                tracing::warn!(reason, %error, "the slice's limits are not kept at this gateway");
            }
            Err(error) => tracing::debug!(%error, "the slice's limits are still not kept"),
        }
    }
}

async fn realise(devices: &[&str], ports: [u16; 2], qos: Option<Qos>) -> Result<(), Error> {
    let shaper = Shaper::open(&NsId::Current).await?;
    match qos.and_then(|qos| Some((qos, qos.ceiling?))) {
        Some((qos, ceiling)) => {
            let limit = Limit::new(Some(ceiling), &qos);
            let shape = Shape {
                devices: devices.iter().map(|device| (*device).to_owned()).collect(),
                leaving: limit,
                arriving: limit,
                pod_ceiling: None,
                pods: BTreeMap::new(),
            };
            shaper.apply(&shape).await?;
        }
        None => shaper.remove().await?,
    }
    let filter = Filter::open(&NsId::Current).await?;
    filter.mark(qos.and_then(|qos| qos.dscp), Marked::SentFrom(ports)).await
}
