//! Tests of the gateway reconciler.
