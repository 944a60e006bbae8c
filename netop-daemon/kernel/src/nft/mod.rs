//! Packet rules of a network namespace: carries out what [`slicewire_core::policy`] has compiled.
//!
//! Four tables are ours: `inet slicewire` and `arp slicewire` for policies, `inet slicewire-qos` for
//! code points, `inet slicewire-services` for virtual addresses; no other is read or changed. All
//! changes of a [`Delta`] are one transaction of the kernel's: a packet sees all of them or none,
//! and when one is refused none is made.
//!
//! Messages are encoded here rather than given to the `nft` program as JSON: the Rust types for
//! that know neither maps to verdicts nor counters of more than 32 bits, and lose what the program
//! says about a refusal; and the program would be one more thing in the image, started for every
//! change. `nft list table inet slicewire` shows what is there.

mod abi;
mod elements;
mod encode;
mod marks;
mod rule;
mod services;
mod socket;
mod writer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use slicewire_core::policy::Delta;
use slicewire_core::qos::Dscp;
use slicewire_core::service::translate::TranslationDelta;

use crate::error::Error;
use crate::netns::{self, NsId};
use crate::port::PacketRules;
pub use marks::Marked;
use services::Ways;
use socket::Socket;

/// What a counter says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets counted.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
}

/// The packet rules of one network namespace; cheap to clone. It keeps the namespace alive.
#[derive(Debug, Clone)]
pub struct Filter {
    id: NsId,
    socket: Arc<Mutex<Socket>>,
    /// Of the table of virtual addresses; nobody writes there but whoever holds the socket.
    ways: Arc<Mutex<Ways>>,
}

impl Filter {
    /// Opens a namespace's packet rules.
    ///
    /// # Errors
    /// `NotFound` where there is no such namespace, `Denied` without the privilege to enter it.
    pub async fn open(id: &NsId) -> Result<Self, Error> {
        let wanted = id.clone();
        let opened = crate::real::blocking(move || {
            netns::inside(wanted.open_other()?.as_ref(), Socket::open)
        });
        let socket = opened.await.map_err(|error| Error::new("open", "packet rules", id, error))?;
        let (socket, ways) = (Arc::new(Mutex::new(socket)), Arc::default());
        Ok(Self { id: id.clone(), socket, ways })
    }

    /// Makes all changes of a delta, or none.
    ///
    /// # Errors
    /// The first change that the kernel refused. `NotFound` and `Conflict` say that the rules are
    /// not those the delta was made for: replace them, by [`Delta::whole`].
    pub async fn apply(&self, delta: Delta) -> Result<(), Error> {
        if delta.is_empty() {
            return Ok(());
        }
        let socket = self.socket.clone();
        let done = crate::real::blocking(move || {
            let batch = encode::batch(&delta);
            Ok(socket.lock().unwrap_or_else(PoisonError::into_inner).change(&batch))
        });
        let refused = |what: &str, error| Error::new("change", what, &self.id, error);
        done.await
            .map_err(|error| refused("packet rules", error))?
            .map_err(|(what, error)| refused(&what, error))
    }

    /// Changes what becomes of packets to virtual addresses; in a table of its own, `inet
    /// slicewire-services`.
    ///
    /// # Errors
    /// The first change that the kernel refused; then none is made.
    pub async fn translate(&self, delta: TranslationDelta) -> Result<(), Error> {
        if delta.is_empty() {
            return Ok(());
        }
        let (socket, ways) = (self.socket.clone(), self.ways.clone());
        let done = crate::real::blocking(move || {
            let mut socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
            let mut ways = ways.lock().unwrap_or_else(PoisonError::into_inner);
            // Nothing is known of what is there while it is changed, or after a refusal.
            let mut there = std::mem::take(&mut *ways);
            let batch = services::batch(&delta, &mut there);
            let changed = socket.change(&batch);
            if changed.is_ok() {
                *ways = there;
            }
            Ok(changed)
        });
        let refused = |what: &str, error| Error::new("change", what, &self.id, error);
        done.await
            .map_err(|error| refused("virtual addresses", error))?
            .map_err(|(what, error)| refused(&what, error))
    }

    /// Removes all our packet rules. There being none is success.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn remove(&self) -> Result<(), Error> {
        let (socket, ways) = (self.socket.clone(), self.ways.clone());
        let done = crate::real::blocking(move || {
            let mut socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
            *ways.lock().unwrap_or_else(PoisonError::into_inner) = Ways::default();
            let batch = encode::removal();
            Ok(socket.change(&batch))
        });
        let refused = |error| Error::new("remove", "packet rules", &self.id, error);
        done.await.map_err(refused)?.map_err(|(_, error)| refused(error))
    }

    /// Marks packets with a code point, or no more; in a table of its own, `inet slicewire-qos`,
    /// that is replaced as a whole.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn mark(&self, dscp: Option<Dscp>, marked: Marked) -> Result<(), Error> {
        let socket = self.socket.clone();
        let done = crate::real::blocking(move || {
            let batch = marks::batch(dscp, marked);
            Ok(socket.lock().unwrap_or_else(PoisonError::into_inner).change(&batch))
        });
        let refused = |error| Error::new("mark", "packets", &self.id, error);
        done.await.map_err(refused)?.map_err(|(_, error)| refused(error))
    }

    /// Counters of the table for IP packets, by name; none where there is no table.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn counters(&self) -> Result<BTreeMap<String, Count>, Error> {
        let socket = self.socket.clone();
        let read = crate::real::blocking(move || {
            socket.lock().unwrap_or_else(PoisonError::into_inner).counters(abi::INET)
        });
        read.await.map_err(|error| Error::new("list", "counters", &self.id, error))
    }

    /// Counters of the table for ARP packets, by name; none where there is no table.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn arp_counters(&self) -> Result<BTreeMap<String, Count>, Error> {
        let socket = self.socket.clone();
        let read = crate::real::blocking(move || {
            socket.lock().unwrap_or_else(PoisonError::into_inner).counters(abi::ARP)
        });
        read.await.map_err(|error| Error::new("list", "counters", &self.id, error))
    }
}

#[async_trait]
impl PacketRules for Filter {
    async fn apply(&self, delta: Delta) -> Result<(), Error> {
        Filter::apply(self, delta).await
    }

    async fn translate(&self, delta: TranslationDelta) -> Result<(), Error> {
        Filter::translate(self, delta).await
    }

    async fn counters(&self) -> Result<BTreeMap<String, Count>, Error> {
        Filter::counters(self).await
    }
}
