//! The parts of the container runtime's interfaces that Slicewire speaks.
//!
//! The `.proto` files below `proto/` hold only the messages and fields that are used; a runtime that
//! sends more is understood, because Protocol Buffers skip what they do not know.
//!
//! | module | what |
//! |---|---|
//! | [`cri`] | Container Runtime Interface: which sandboxes run, and where their namespaces are |
//! | [`nri`] | Node Resource Interface: being asked before a sandbox's first container starts |
//! | [`ttrpc`] | the envelopes in which NRI messages travel |

/// `runtime.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// `nri.pkg.api.v1alpha1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod nri {
    tonic::include_proto!("nri.pkg.api.v1alpha1");
}

/// Requests and responses of ttrpc.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
pub mod ttrpc {
    tonic::include_proto!("ttrpc");
}
