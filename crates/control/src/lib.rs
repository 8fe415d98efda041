//! stub
pub mod agent;
mod api;
mod error;
pub use api::*;
pub use error::Error;
