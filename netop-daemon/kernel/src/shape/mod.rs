//! Shaping in a network namespace: carries out what [`slicewire_core::qos::shape`] says.
//!
//! Two devices of our own (`ifb`), [`LEAVING`] and [`ARRIVING`], hold the queues: packets that go out
//! of, or come in by, the slice's ways into and out of the namespace are led through them and then
//! go on as they would have gone. No other device's queueing is touched: what hangs at those ways from
//! the beginning, `clsact`, queues nothing, and is empty without shaping. `tc -s class show dev swqout` shows what is
//! there.
//!
//! Messages are encoded here: rtnetlink's types know neither the options of `htb` classes nor those
//! of `u32` filters.

mod abi;
mod classify;
mod encode;
mod links;
mod redirect;
mod socket;
mod tree;
mod writer;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use slicewire_core::qos::Dscp;
use slicewire_core::qos::shape::{Limit, Shape};

use crate::error::Error;
use crate::netns::{self, NsId};
use socket::Socket;

/// The device that holds what leaves.
pub const LEAVING: &str = "swqout";
/// The device that holds what arrives.
pub const ARRIVING: &str = "swqin";

/// Makes the place where filters hang at a device of the calling thread's namespace.
pub(crate) fn add_filter_place(device: &str) -> io::Result<()> {
    let mut socket = Socket::open()?;
    let index = links::index(&mut socket, device)?.ok_or(nix::errno::Errno::ENODEV)?;
    redirect::place(&mut socket, index)
}

/// What a direction's shaper has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shaped {
    /// Bytes passed on.
    pub bytes: u64,
    /// Packets passed on, those that were joined counted one by one.
    pub packets: u64,
    /// Bytes that wait.
    pub backlog: u64,
    /// Packets dropped because a queue was full.
    pub dropped: u64,
}

/// What both shapers have done, and what pods' classes have passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShapedBoth {
    /// What left.
    pub leaving: Shaped,
    /// What arrived.
    pub arriving: Shaped,
    /// Bytes by pods' class numbers: left and arrived.
    pub pods: BTreeMap<u16, (u64, u64)>,
}

/// The shaping of one network namespace; cheap to clone. It keeps the namespace alive.
#[derive(Debug, Clone)]
pub struct Shaper {
    id: NsId,
    socket: Arc<Mutex<Socket>>,
}

impl Shaper {
    /// Opens a namespace's shaping.
    ///
    /// # Errors
    /// `NotFound` where there is no such namespace, `Denied` without the privilege to enter it.
    pub async fn open(id: &NsId) -> Result<Self, Error> {
        let wanted = id.clone();
        let opened = crate::real::blocking(move || {
            netns::inside(wanted.open_other()?.as_ref(), Socket::open)
        });
        let socket = opened.await.map_err(|error| Error::new("open", "shaping", id, error))?;
        Ok(Self { id: id.clone(), socket: Arc::new(Mutex::new(socket)) })
    }

    /// Makes the shaping what it should be, whatever there is. No packet is lost by a change of
    /// rates or pods; devices that are not there yet are left out.
    ///
    /// # Errors
    /// What the kernel said: `Unsupported` and `NotFound` where it lacks `ifb`, `htb` or `mirred`.
    pub async fn apply(&self, shape: &Shape) -> Result<(), Error> {
        let shape = shape.clone();
        self.run("shape", move |socket| {
            let devices = links::ensure(socket)?;
            for direction in &devices.both {
                let limit = if direction.leaving { shape.leaving } else { shape.arriving };
                tree::ensure(socket, direction.index, limit, &shape)?;
                classify::ensure(socket, direction, &shape.pods)?;
                tree::prune(socket, direction.index, &shape)?;
            }
            redirect::ensure(socket, &devices, &shape.devices)
        })
        .await
    }

    /// Changes only how much may pass.
    ///
    /// # Errors
    /// `NoSuchDevice` and `NotFound` where nothing is shaped; what the kernel said.
    pub async fn set_limits(&self, leaving: Limit, arriving: Limit) -> Result<(), Error> {
        self.run("change rates of", move |socket| {
            for (device, limit) in [(LEAVING, leaving), (ARRIVING, arriving)] {
                let index = links::index(socket, device)?.ok_or(nix::errno::Errno::ENODEV)?;
                socket.change(encode::class(index, abi::ROOT_CLASS, abi::ROOT, &limit.root()))?;
            }
            Ok(())
        })
        .await
    }

    /// What the shapers have done; `None` where nothing is shaped.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn counters(&self) -> Result<Option<ShapedBoth>, Error> {
        self.run("count", |socket| {
            let (Some(out), Some(into)) =
                (links::index(socket, LEAVING)?, links::index(socket, ARRIVING)?)
            else {
                return Ok(None);
            };
            let mut both = ShapedBoth::default();
            both.leaving = tree::counters(socket, out, |n, bytes| {
                both.pods.entry(n).or_default().0 = bytes;
            })?;
            both.arriving = tree::counters(socket, into, |n, bytes| {
                both.pods.entry(n).or_default().1 = bytes;
            })?;
            Ok(Some(both))
        })
        .await
    }

    /// Ends all shaping: packets go their own way again, those that wait are let out, and the
    /// devices go. None being there is success.
    ///
    /// # Errors
    /// What the kernel said.
    pub async fn remove(&self) -> Result<(), Error> {
        self.run("remove", |socket| {
            redirect::remove(socket)?;
            for device in [LEAVING, ARRIVING] {
                if let Some(index) = links::index(socket, device)? {
                    tree::drain(socket, index)?;
                    socket.change(encode::delete_link(index))?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Sets the code point of the packets around those that a VXLAN device carries; unset: none.
    ///
    /// # Errors
    /// `NoSuchDevice`; what the kernel said.
    pub async fn set_vxlan_dscp(&self, device: &str, dscp: Option<Dscp>) -> Result<(), Error> {
        let device = device.to_owned();
        self.run("mark packets of", move |socket| {
            let index = links::index(socket, &device)?.ok_or(nix::errno::Errno::ENODEV)?;
            socket.change(encode::vxlan_tos(index, dscp.map_or(0, |d| d.0 << 2)))
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Socket) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let socket = self.socket.clone();
        let done = crate::real::blocking(move || {
            work(&mut socket.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.map_err(|error| Error::new(operation, "shaping", &self.id, error))
    }
}
