//! An iSCSI target over a store in memory.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use snapmark::config::Secrets;
use snapmark::control::Control;
use snapmark::frontend::iscsi::{
    Access, Identity, Initiator, IscsiOptions, IscsiTarget, Outcome, Transfer, target_name,
};
use snapmark::volume::Node;

use super::TestStore;
use super::engine::{Engine, Shape};
use super::model::new_disk;

/// The store's name.
pub const STORE: &str = "lab";

/// A store in memory and its target.
pub struct Lab {
    /// Ended first.
    pub target: Option<IscsiTarget>,
    pub portal: SocketAddr,
    pub engine: Engine,
}

/// How the target is started, but for where.
pub fn options() -> IscsiOptions {
    IscsiOptions {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        store: STORE.to_owned(),
        uuid: [7; 16],
        secrets: None,
        access: Vec::new(),
        open: false,
        sessions: 256,
        silence: IscsiOptions::SILENCE,
        data_patience: IscsiOptions::DATA_PATIENCE,
        space_patience: IscsiOptions::SPACE_PATIENCE,
    }
}

pub fn secrets(text: &str) -> Option<Secrets> {
    Some(Secrets::parse("test", text.as_bytes()).unwrap())
}

pub fn access(disks: &str, initiator: &str) -> Access {
    Access {
        disks: snapmark::config::Glob::new(disks),
        initiators: vec![snapmark::config::Glob::new(initiator)],
    }
}

impl Lab {
    /// With a disk `disk` of 64 MiB.
    pub fn new() -> Self {
        Self::with(options(), Shape::default())
    }

    pub fn with(options: IscsiOptions, shape: Shape) -> Self {
        let engine = Engine::new(shape);
        engine.create(new_disk("disk", 64 << 20)).unwrap();
        let commands = Arc::new(Control::new(Arc::clone(&engine.volumes)));
        let target = IscsiTarget::start(Arc::clone(&engine.volumes), commands, options).unwrap();
        let portal = target.addresses().next().unwrap();
        Self {
            target: Some(target),
            portal,
            engine,
        }
    }

    pub fn node(&self, file: &str) -> Node {
        self.engine.lookup(file).unwrap()
    }

    /// What the store has at a place.
    pub fn bytes(&self, file: &str, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; len];
        assert_eq!(
            self.engine
                .read(self.node(file), offset, &mut bytes)
                .unwrap(),
            len
        );
        bytes
    }

    /// A session of an initiator with a disk or snapshot, that has been told all there was to tell.
    pub fn session(&self, initiator: &str, file: &str) -> Initiator {
        session_at(self.portal, initiator, file)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.target.take());
    }
}

/// A mounted store, named as [`STORE`], that is served over iSCSI too.
pub fn served(init: &[&str]) -> (TestStore, SocketAddr) {
    served_with(init, "")
}

/// The same with more settings of iSCSI, each a line; a file of secrets can be named by its whole path.
pub fn served_with(init: &[&str], more: &str) -> (TestStore, SocketAddr) {
    // A port that was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let portal = listener.local_addr().unwrap();
    drop(listener);
    let mut store = TestStore::unmounted(init);
    let settings = store.store().join("store.yaml");
    let text = std::fs::read_to_string(&settings).unwrap();
    let listening = format!("iscsi:\n  listen: [\"{portal}\"]\n  name: {STORE}\n{more}");
    assert!(text.contains("iscsi:\n"));
    std::fs::write(&settings, text.replacen("iscsi:\n", &listening, 1)).unwrap();
    store.mount();
    (store, portal)
}

/// A session of an initiator with a disk or snapshot at a portal, that has been told all.
pub fn session_at(portal: SocketAddr, initiator: &str, file: &str) -> Initiator {
    let mut session = Initiator::log_in(portal, &identity(initiator, file)).unwrap();
    settle(&mut session);
    session
}

pub fn identity(initiator: &str, file: &str) -> Identity {
    Identity {
        initiator: format!("iqn.2026-11.test:{initiator}"),
        target: Some(target_name(STORE, file).unwrap()),
        ..Identity::default()
    }
}

/// TEST UNIT READY, until nothing more is told.
pub fn settle(session: &mut Initiator) {
    for _ in 0..16 {
        if session.command(&[0; 6], Transfer::None).unwrap().status == 0 {
            return;
        }
    }
    panic!("never ready");
}

/// READ or WRITE (10) and the like, of blocks of 512 bytes.
pub fn ten(opcode: u8, first: u32, count: u16) -> [u8; 10] {
    let mut cdb = [0; 10];
    cdb[0] = opcode;
    cdb[2..6].copy_from_slice(&first.to_be_bytes());
    cdb[7..9].copy_from_slice(&count.to_be_bytes());
    cdb
}

pub fn write(session: &mut Initiator, first: u32, data: &[u8]) -> Outcome {
    let cdb = ten(0x2a, first, (data.len() / 512) as u16);
    session.command(&cdb, Transfer::Out(data)).unwrap()
}

pub fn read(session: &mut Initiator, first: u32, count: u16) -> Vec<u8> {
    let len = usize::from(count) * 512;
    let outcome = session
        .command(&ten(0x28, first, count), Transfer::In(len))
        .unwrap();
    good(&outcome);
    assert_eq!(outcome.data.len(), len);
    outcome.data
}

#[track_caller]
pub fn good(outcome: &Outcome) {
    let words = outcome.words().unwrap_or_default();
    assert_eq!(outcome.status, 0, "{:02x?} {words}", outcome.sense_code());
}

/// The sense code of a command that was to fail.
#[track_caller]
pub fn sense(outcome: &Outcome) -> (u8, u8, u8) {
    assert_eq!(outcome.status, 2, "CHECK CONDITION");
    outcome.sense_code().expect("sense data")
}
