//! Tests of the slice reconciler.
