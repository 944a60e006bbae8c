//! The Node Resource Interface: the runtime asks before a sandbox's first container starts, so that
//! the slice NICs are there when the application looks.
//!
//! NRI is ttrpc (10-byte frames around Protocol Buffers) in both directions over one Unix
//! connection, told apart by a multiplexer (8-byte frames around those). Both are small enough to be
//! written down here; a general ttrpc library would need a socket pair and a pump for each direction.
//!
//! | module | |
//! |---|---|
//! | [`frame`] | the two framings |
//! | [`plugin`] | the conversation: register, be configured, be synchronised, be asked |

mod frame;
mod plugin;

pub(crate) use plugin::{Asked, serve};
