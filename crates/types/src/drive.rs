//! What is asked of drives.

/// What an operator wants of a drive of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriveChange {
    /// Empty it, then let it go.
    Remove,
    /// Give it up at once; what it holds is made good from the others.
    ForceOut,
    /// Let it stay although it was to be removed.
    Keep,
}
