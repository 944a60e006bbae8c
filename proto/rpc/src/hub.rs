//! `slicewire.hub`: what a portal talks to.
//!
//! Messages that are Kubernetes objects, or parts of them, are also `serde` types whose JSON is that
//! of the objects: that is how one becomes the other.

pub(crate) mod port;
pub(crate) mod rules;
pub(crate) mod time;
pub(crate) mod words;

/// Version 1, first draft.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod v1alpha1 {
    tonic::include_proto!("slicewire.hub.v1alpha1");
}

/// The package's `google.protobuf.FileDescriptorSet`, encoded, without comments.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hub.binpb"));
