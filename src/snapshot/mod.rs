//! The verbs of snapshots: take, roll back, clone. Each is an op in the queue; none waits for the
//! data before it to be destaged.

mod clone;
mod rollback;
mod take;
