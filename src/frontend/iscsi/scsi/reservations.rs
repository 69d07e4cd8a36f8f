//! Who may use a logical unit: RESERVE and RELEASE (SPC-2, sections 7.21 and 7.23), and persistent
//! reservations (SPC-4, section 5.13). They are kept in memory, and end with the daemon; so the
//! capability "persist through power loss" is not reported.

use super::Answer;
use super::cdb::{be16, be32, be64};
use super::nexus::Nexus;
use super::opcodes::Access;
use super::sense::{Sense, code};
use super::unit::Unit;

/// Registrations of a logical unit at the most.
const MOST: usize = 256;
/// Bytes of a parameter list of PERSISTENT RESERVE OUT.
const PARAMETERS: usize = 24;

/// Kinds of persistent reservations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrants = 5,
    ExclusiveAccessRegistrants = 6,
    WriteExclusiveAll = 7,
    ExclusiveAccessAll = 8,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        Some(match byte & 0x0f {
            1 => Self::WriteExclusive,
            3 => Self::ExclusiveAccess,
            5 => Self::WriteExclusiveRegistrants,
            6 => Self::ExclusiveAccessRegistrants,
            7 => Self::WriteExclusiveAll,
            8 => Self::ExclusiveAccessAll,
            _ => return None,
        })
    }

    /// Whether it keeps readers out too.
    fn is_exclusive(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess | Self::ExclusiveAccessRegistrants | Self::ExclusiveAccessAll
        )
    }

    /// Whether all that are registered are let in.
    fn lets_registrants_in(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether all that are registered hold it.
    fn is_of_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Registration {
    port: String,
    key: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reservation {
    /// Who made it; of kinds that all hold, that says nothing.
    port: String,
    kind: Kind,
}

/// The reservations of a logical unit.
#[derive(Debug, Default)]
pub struct Reservations {
    generation: u32,
    registrations: Vec<Registration>,
    reservation: Option<Reservation>,
    /// Who has it by RESERVE; there is nothing of the other kind then, and nobody, the holder too, can make or
    /// see any (SPC-2, section 5.5.1).
    reserved: Option<String>,
}

/// What others are to know of after a change.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    /// To these ports, this.
    told: Vec<(String, (u8, u8))>,
    /// Whose commands are to be given up.
    aborted: Vec<String>,
}

/// A service action failed.
enum Refused {
    Conflict,
    Check(Sense),
}

impl Reservations {
    /// Whether a command of this port is kept out.
    pub(super) fn conflict(&self, port: &str, access: Access) -> bool {
        if access == Access::Any {
            return false;
        }
        if self
            .reserved
            .as_deref()
            .is_some_and(|holder| holder != port)
        {
            return true;
        }
        let Some(reservation) = &self.reservation else {
            return false;
        };
        let is_registered = self.key_of(port).is_some();
        if self.holds(port) || (is_registered && reservation.kind.lets_registrants_in()) {
            return false;
        }
        match access {
            Access::Any | Access::State => false,
            Access::Reads => reservation.kind.is_exclusive(),
            Access::Writes | Access::Manages => true,
        }
    }

    /// RESERVE. Whether it was let through.
    fn reserve(&mut self, port: &str) -> bool {
        // The two kinds of reservation do not go together.
        if !self.registrations.is_empty() {
            return false;
        }
        if self
            .reserved
            .as_deref()
            .is_some_and(|holder| holder != port)
        {
            return false;
        }
        self.reserved = Some(port.to_owned());
        true
    }

    /// RELEASE.
    fn release(&mut self, port: &str) {
        if self.reserved.as_deref() == Some(port) {
            self.reserved = None;
        }
    }

    /// What RESERVE gave ends with a reset.
    pub(super) fn release_all(&mut self) {
        self.reserved = None;
    }

    /// It ends with the session too.
    pub(super) fn nexus_lost(&mut self, port: &str) {
        self.release(port);
    }

    /// Whether there are none, of either kind.
    pub(super) fn is_empty(&self) -> bool {
        self.registrations.is_empty() && self.reserved.is_none()
    }

    fn key_of(&self, port: &str) -> Option<u64> {
        let found = self.registrations.iter().find(|of| of.port == port);
        found.map(|registration| registration.key)
    }

    fn holds(&self, port: &str) -> bool {
        self.reservation.as_ref().is_some_and(|reservation| {
            if reservation.kind.is_of_all() {
                self.key_of(port).is_some()
            } else {
                reservation.port == port
            }
        })
    }

    /// Takes a registration away, and its reservation with it.
    fn unregister(&mut self, port: &str, news: &mut News) {
        let held = self.holds(port);
        self.registrations.retain(|of| of.port != port);
        let Some(reservation) = self.reservation.clone().filter(|_| held) else {
            return;
        };
        if reservation.kind.is_of_all() && !self.registrations.is_empty() {
            return;
        }
        self.reservation = None;
        if reservation.kind.lets_registrants_in() {
            self.tell_all(port, code::RESERVATIONS_RELEASED, news);
        }
    }

    /// All that are registered but one are to know of something.
    fn tell_all(&self, but: &str, what: (u8, u8), news: &mut News) {
        let others = self.registrations.iter().filter(|of| of.port != but);
        news.told.extend(others.map(|of| (of.port.clone(), what)));
    }

    fn register(
        &mut self,
        port: &str,
        old: Option<u64>,
        new: u64,
        news: &mut News,
    ) -> Result<(), Refused> {
        let registered = self.key_of(port);
        if let Some(old) = old
            && old != registered.unwrap_or(0)
        {
            return Err(Refused::Conflict);
        }
        if registered.is_none() && new == 0 {
            return Ok(());
        }
        if registered.is_none() && self.registrations.len() >= MOST {
            return Err(Refused::Check(Sense::illegal(code::NO_REGISTRATIONS)));
        }
        self.generation = self.generation.wrapping_add(1);
        if new == 0 {
            self.unregister(port, news);
        } else if let Some(of) = self.registrations.iter_mut().find(|of| of.port == port) {
            of.key = new;
        } else {
            let port = port.to_owned();
            self.registrations.push(Registration { port, key: new });
        }
        Ok(())
    }

    fn make(&mut self, port: &str, kind: Kind) -> Result<(), Refused> {
        match &self.reservation {
            Some(held) if self.holds(port) && held.kind == kind => Ok(()),
            Some(_) => Err(Refused::Conflict),
            None => {
                let port = port.to_owned();
                self.reservation = Some(Reservation { port, kind });
                Ok(())
            }
        }
    }

    fn give_up(&mut self, port: &str, kind: Kind, news: &mut News) -> Result<(), Refused> {
        let Some(held) = self.reservation.clone().filter(|_| self.holds(port)) else {
            return Ok(());
        };
        if held.kind != kind {
            return Err(Refused::Check(Sense::illegal(code::INVALID_RELEASE)));
        }
        self.reservation = None;
        if kind.lets_registrants_in() {
            self.tell_all(port, code::RESERVATIONS_RELEASED, news);
        }
        Ok(())
    }

    fn clear(&mut self, port: &str, news: &mut News) {
        self.generation = self.generation.wrapping_add(1);
        self.tell_all(port, code::RESERVATIONS_PREEMPTED, news);
        self.registrations.clear();
        self.reservation = None;
    }

    fn preempt(
        &mut self,
        port: &str,
        key: u64,
        kind: Kind,
        news: &mut News,
    ) -> Result<(), Refused> {
        let held = self.reservation.clone();
        let takes_over = held.as_ref().is_some_and(|held| {
            if held.kind.is_of_all() {
                key == 0
            } else {
                self.key_of(&held.port) == Some(key)
            }
        });
        if key == 0 && !takes_over {
            return Err(Refused::Check(Sense::field_in_parameters(8)));
        }
        let (gone, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.registrations)
            .into_iter()
            .partition(|of| of.port != port && (key == 0 || of.key == key));
        self.registrations = left;
        if gone.is_empty() && !takes_over {
            return Err(Refused::Conflict);
        }
        self.generation = self.generation.wrapping_add(1);
        for of in gone {
            news.told
                .push((of.port.clone(), code::REGISTRATIONS_PREEMPTED));
            news.aborted.push(of.port);
        }
        if takes_over {
            let changes =
                held.is_some_and(|held| held.kind != kind && held.kind.lets_registrants_in());
            if changes {
                self.tell_all(port, code::RESERVATIONS_RELEASED, news);
            }
            let port = port.to_owned();
            self.reservation = Some(Reservation { port, kind });
        }
        Ok(())
    }

    /// PERSISTENT RESERVE OUT.
    fn change(&mut self, port: &str, cdb: &[u8; 16], parameters: &[u8]) -> Result<News, Refused> {
        let invalid = |byte| Err(Refused::Check(Sense::field_in_parameters(byte)));
        if self.reserved.is_some() {
            return Err(Refused::Conflict);
        }
        if parameters.len() != PARAMETERS || be32(&cdb[5..]) as usize != PARAMETERS {
            return Err(Refused::Check(Sense::illegal(code::PARAMETER_LIST_LENGTH)));
        }
        let (key, new) = (be64(parameters), be64(&parameters[8..]));
        let flags = parameters[20];
        let action = cdb[1] & 0x1f;
        let mut news = News::default();
        if action == 0 || action == 6 {
            // Registering for other ports, or through power loss, is not supported.
            if flags & 0x09 != 0 {
                return invalid(20);
            }
            let old = (action == 0).then_some(key);
            self.register(port, old, new, &mut news)?;
            return Ok(news);
        }
        if self.key_of(port) != Some(key) {
            return Err(Refused::Conflict);
        }
        if action == 3 {
            self.clear(port, &mut news);
            return Ok(news);
        }
        let kind = Kind::of(cdb[2]).filter(|_| cdb[2] >> 4 == 0);
        let kind = kind.ok_or(Refused::Check(Sense::field_in_cdb(2, None)))?;
        match action {
            1 => self.make(port, kind)?,
            2 => self.give_up(port, kind, &mut news)?,
            _ => self.preempt(port, new, kind, &mut news)?,
        }
        if action != 5 {
            news.aborted.clear();
        }
        Ok(news)
    }

    /// PERSISTENT RESERVE IN.
    fn report(&self, action: u8) -> Vec<u8> {
        let mut list = Vec::new();
        match action {
            0 => self
                .registrations
                .iter()
                .for_each(|of| list.extend(of.key.to_be_bytes())),
            1 => {
                if let Some(reservation) = &self.reservation {
                    let key = match reservation.kind.is_of_all() {
                        true => 0,
                        false => self.key_of(&reservation.port).unwrap_or(0),
                    };
                    list.extend(key.to_be_bytes());
                    list.extend([0, 0, 0, 0, 0, reservation.kind as u8, 0, 0]);
                }
            }
            // All six kinds; of all target ports of the device, which has one.
            2 => return vec![0, 8, 0x04, 0x80, 0xea, 0x01, 0, 0],
            _ => self
                .registrations
                .iter()
                .for_each(|of| self.describe(of, &mut list)),
        }
        let mut answer = self.generation.to_be_bytes().to_vec();
        answer.extend((list.len() as u32).to_be_bytes());
        answer.extend(list);
        answer
    }

    /// A full status descriptor.
    fn describe(&self, of: &Registration, list: &mut Vec<u8>) {
        let mut port = of.port.clone().into_bytes();
        port.push(0);
        port.resize(port.len().next_multiple_of(4).max(20), 0);
        let holds = self.holds(&of.port);
        let kind = self
            .reservation
            .as_ref()
            .filter(|_| holds)
            .map_or(0, |of| of.kind as u8);
        list.extend(of.key.to_be_bytes());
        list.extend([0, 0, 0, 0, u8::from(holds), kind, 0, 0, 0, 0, 0, 1]);
        list.extend(((port.len() + 4) as u32).to_be_bytes());
        list.extend([0x45, 0]);
        list.extend((port.len() as u16).to_be_bytes());
        list.extend(port);
    }
}

/// RESERVE.
pub(super) fn reserve(unit: &Unit, nexus: &Nexus) -> Answer {
    if unit.reservations.lock().reserve(&nexus.port) {
        Answer::Good
    } else {
        Answer::Conflict
    }
}

/// RELEASE.
pub(super) fn release(unit: &Unit, nexus: &Nexus) -> Answer {
    unit.reservations.lock().release(&nexus.port);
    Answer::Good
}

/// PERSISTENT RESERVE IN.
pub(super) fn report(unit: &Unit, cdb: &[u8; 16]) -> Answer {
    let reservations = unit.reservations.lock();
    if reservations.reserved.is_some() {
        return Answer::Conflict;
    }
    let mut answer = reservations.report(cdb[1] & 0x1f);
    answer.truncate(usize::from(be16(&cdb[7..])));
    Answer::Data(answer)
}

/// PERSISTENT RESERVE OUT. Commands of sessions that were preempted are given up by `abort`.
pub(super) fn change(
    unit: &Unit,
    nexus: &Nexus,
    cdb: &[u8; 16],
    parameters: &[u8],
    abort: &dyn Fn(&str),
) -> Answer {
    let changed = unit
        .reservations
        .lock()
        .change(&nexus.port, cdb, parameters);
    match changed {
        Ok(news) => {
            for (port, what) in &news.told {
                unit.tell(|other| other == port, *what);
            }
            news.aborted.iter().for_each(|port| abort(port));
            Answer::Good
        }
        Err(Refused::Conflict) => Answer::Conflict,
        Err(Refused::Check(sense)) => Answer::Check(sense),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out(
        of: &mut Reservations,
        port: &str,
        action: u8,
        kind: u8,
        key: u64,
        new: u64,
    ) -> Result<News, bool> {
        let mut cdb = [0; 16];
        (cdb[0], cdb[1], cdb[2], cdb[8]) = (0x5f, action, kind, 24);
        let mut parameters = [0; 24];
        parameters[..8].copy_from_slice(&key.to_be_bytes());
        parameters[8..16].copy_from_slice(&new.to_be_bytes());
        of.change(port, &cdb, &parameters)
            .map_err(|refused| matches!(refused, Refused::Conflict))
    }

    fn registered() -> Reservations {
        let mut of = Reservations::default();
        for (port, key) in [("a", 1), ("b", 2), ("c", 2)] {
            out(&mut of, port, 0, 0, 0, key).unwrap();
        }
        of
    }

    #[test]
    fn reserve_keeps_all_others_out_until_it_is_released() {
        let mut of = Reservations::default();
        assert!(of.reserve("a") && of.reserve("a") && !of.reserve("b"));
        assert!(of.conflict("b", Access::State) && !of.conflict("a", Access::Writes));
        assert!(!of.conflict("b", Access::Any));
        of.release("b");
        assert!(of.conflict("b", Access::Reads));
        of.nexus_lost("a");
        assert!(!of.conflict("b", Access::Writes));
        assert!(!registered().reserve("a"), "beside registrations");
    }

    #[test]
    fn a_key_is_needed_for_every_change() {
        let mut of = registered();
        assert_eq!(out(&mut of, "a", 0, 0, 9, 3), Err(true));
        assert_eq!(out(&mut of, "z", 1, 1, 1, 0), Err(true));
        assert_eq!(out(&mut of, "a", 1, 1, 2, 0), Err(true));
        assert!(out(&mut of, "a", 6, 0, 9, 5).is_ok(), "ignoring the key");
        assert_eq!(of.key_of("a"), Some(5));
        assert_eq!(out(&mut of, "a", 1, 2, 5, 0), Err(false), "no such kind");
        assert_eq!(of.generation, 4);
    }

    #[test]
    fn each_kind_keeps_out_whom_it_should() {
        for (kind, reader, writer, registrant) in [
            (1, false, true, true),
            (3, true, true, true),
            (5, false, true, false),
            (6, true, true, false),
            (7, false, true, false),
            (8, true, true, false),
        ] {
            let mut of = registered();
            out(&mut of, "a", 1, kind, 1, 0).unwrap();
            assert!(!of.conflict("a", Access::Writes), "{kind}");
            assert_eq!(of.conflict("z", Access::Reads), reader, "{kind}");
            assert_eq!(of.conflict("z", Access::Writes), writer, "{kind}");
            assert_eq!(of.conflict("b", Access::Writes), registrant, "{kind}");
            assert!(!of.conflict("z", Access::State), "{kind}");
            let again = out(&mut of, "b", 1, kind, 2, 0);
            assert_eq!(again.is_ok(), kind > 6, "{kind}");
        }
    }

    #[test]
    fn a_release_tells_those_who_were_let_in() {
        let mut of = registered();
        out(&mut of, "a", 1, 5, 1, 0).unwrap();
        assert_eq!(out(&mut of, "a", 2, 6, 1, 0), Err(false));
        assert_eq!(out(&mut of, "b", 2, 5, 2, 0).unwrap(), News::default());
        let news = out(&mut of, "a", 2, 5, 1, 0).unwrap();
        let released = |port: &str| (port.to_owned(), code::RESERVATIONS_RELEASED);
        assert_eq!(news.told, [released("b"), released("c")]);
    }

    #[test]
    fn preempting_takes_registrations_and_the_reservation() {
        let mut of = registered();
        out(&mut of, "b", 1, 1, 2, 0).unwrap();
        let news = out(&mut of, "a", 5, 3, 1, 2).unwrap();
        assert_eq!(news.aborted, ["b", "c"]);
        assert!(of.holds("a") && of.key_of("b").is_none());
        assert!(of.conflict("b", Access::Reads));
        assert_eq!(out(&mut of, "a", 4, 3, 1, 77), Err(true), "no such key");
        assert_eq!(out(&mut of, "a", 4, 3, 1, 0), Err(false));

        let mut of = registered();
        out(&mut of, "b", 1, 7, 2, 0).unwrap();
        let news = out(&mut of, "a", 4, 8, 1, 0).unwrap();
        assert_eq!((news.told.len(), news.aborted.len()), (2, 0));
        assert!(of.holds("a") && of.registrations.len() == 1);
    }

    #[test]
    fn the_last_of_all_registrants_takes_the_reservation_with_it() {
        let mut of = registered();
        out(&mut of, "a", 1, 7, 1, 0).unwrap();
        out(&mut of, "a", 0, 0, 1, 0).unwrap();
        assert!(of.holds("b"));
        out(&mut of, "b", 0, 0, 2, 0).unwrap();
        out(&mut of, "c", 0, 0, 2, 0).unwrap();
        assert_eq!(of.reservation, None);
    }

    #[test]
    fn reports_have_the_standards_form() {
        let mut of = registered();
        out(&mut of, "a", 1, 5, 1, 0).unwrap();
        let keys = of.report(0);
        assert_eq!(
            keys[..16],
            [0, 0, 0, 3, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 1]
        );
        let reservation = of.report(1);
        assert_eq!(reservation[4..8], [0, 0, 0, 16]);
        assert_eq!(reservation[21], 5);
        let full = of.report(3);
        assert_eq!(full[8 + 12..8 + 14], [1, 5]);
        assert_eq!(full[8 + 18..8 + 20], [0, 1], "the relative target port");
        assert_eq!(full[8 + 20..8 + 24], [0, 0, 0, 24]);
        assert_eq!(full[8 + 24..8 + 30], [0x45, 0, 0, 20, b'a', 0]);
        assert_eq!(full.len(), 8 + 3 * 48);
    }
}
