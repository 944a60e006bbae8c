//! gRPC definitions of Slicewire and the code generated from them.
//!
//! The `.proto` files below `proto/` are the reference; the generated items carry their comments.
//! Messages of gateways become domain types of `slicewire_core::gateway` by `TryFrom`, and come from
//! them by `From`; those of the hub are Kubernetes objects in another form.

mod convert;
pub mod hub;
pub mod tls;

/// `slicewire.gateway.v1`: gateway pods.
pub mod gateway {
    /// Version 1.
    #[allow(
        missing_docs,
        unreachable_pub,
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        reason = "generated code"
    )]
    pub mod v1 {
        tonic::include_proto!("slicewire.gateway.v1");
    }
}
