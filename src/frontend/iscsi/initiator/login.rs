//! How the initiator logs in (RFC 7143, section 6.3).

use super::super::login::{Algorithm, binary, hex};
use super::super::wire::{BHS, Digests, Header, MAX_DATA_SEGMENT, Pairs, response};
use super::{Identity, Initiator, InitiatorError, Result};

impl Initiator {
    /// The login, from its first step to full feature phase.
    pub(super) fn introduce(&mut self, identity: &Identity) -> Result<()> {
        let mut said = Pairs::default();
        said.push("InitiatorName", identity.initiator.clone());
        match &identity.target {
            Some(target) => {
                said.push("SessionType", "Normal");
                said.push("TargetName", target.clone());
            }
            None => said.push("SessionType", "Discovery"),
        }
        let Some(account) = &identity.account else {
            said.push("AuthMethod", "None");
            self.step(identity, 0, 1, &said)?;
            return self.agree(identity);
        };
        said.push("AuthMethod", "CHAP");
        self.step(identity, 0, 0, &said)?;
        let mut said = Pairs::default();
        said.push("CHAP_A", Algorithm::LIST);
        let answer = self.step(identity, 0, 0, &said)?;
        let missing = InitiatorError::Protocol("it sent no challenge");
        let (Some(list), Some(id), Some(challenge)) = (
            answer.get("CHAP_A"),
            answer.get("CHAP_I"),
            answer.get("CHAP_C"),
        ) else {
            return Err(missing);
        };
        let algorithm =
            Algorithm::choose(list).ok_or(InitiatorError::Protocol("an unknown algorithm"))?;
        let id: u8 = id
            .parse()
            .map_err(|_| InitiatorError::Protocol("CHAP_I is no number"))?;
        let challenge = binary(challenge).ok_or(InitiatorError::Protocol("CHAP_C is no number"))?;
        let mut said = Pairs::default();
        let response = algorithm.response(id, account.secret.reveal().as_bytes(), &challenge);
        said.push("CHAP_N", account.user.clone());
        said.push("CHAP_R", hex(&response));
        let mut ours = [0; 17];
        getrandom::fill(&mut ours).map_err(|_| InitiatorError::Protocol("no random numbers"))?;
        if identity.proof.is_some() {
            said.push("CHAP_I", ours[16].to_string());
            said.push("CHAP_C", hex(&ours[..16]));
        }
        let answer = self.step(identity, 0, 1, &said)?;
        if let Some(proof) = &identity.proof {
            let right = algorithm.response(ours[16], proof.secret.reveal().as_bytes(), &ours[..16]);
            let is_right = answer.get("CHAP_N") == Some(proof.user.as_str())
                && answer.get("CHAP_R").and_then(binary) == Some(right);
            if !is_right {
                return Err(InitiatorError::Proof);
            }
        }
        self.agree(identity)
    }

    /// The operational stage.
    fn agree(&mut self, identity: &Identity) -> Result<()> {
        let mut said = Pairs::default();
        let digest = if identity.digests { "CRC32C" } else { "None" };
        said.push("HeaderDigest", digest);
        said.push("DataDigest", digest);
        said.push("MaxRecvDataSegmentLength", MAX_DATA_SEGMENT.to_string());
        if identity.target.is_some() {
            said.push("InitialR2T", "Yes");
            said.push("ImmediateData", "Yes");
            said.push("FirstBurstLength", (256 << 10).to_string());
            said.push("MaxBurstLength", (1 << 20).to_string());
        }
        let answer = self.step(identity, 1, 3, &said)?;
        let number = |key: &str| answer.get(key).and_then(|text| text.parse::<usize>().ok());
        self.segment = number("MaxRecvDataSegmentLength").unwrap_or(self.segment);
        self.first_burst = number("FirstBurstLength").unwrap_or(self.first_burst);
        let is_on = identity.digests;
        self.digests = Digests {
            header: is_on,
            data: is_on,
        };
        self.input.set_digests(self.digests);
        Ok(())
    }

    /// One step of the login, from a stage to the same or another.
    fn step(&mut self, identity: &Identity, from: u8, to: u8, said: &Pairs) -> Result<Pairs> {
        let mut header = Header([0; BHS]);
        header.0[0] = 0x43;
        header.set_flag(from << 2);
        if to != from {
            header.set_flag(0x80 | to);
        }
        header.0[8..14].copy_from_slice(&identity.isid);
        header.set_u32(16, 0);
        header.set_u32(24, self.cmd_sn);
        header.set_u32(28, self.stat_sn);
        self.send(&header, &said.encode())?;
        let (answer, text) = self.receive()?;
        if answer.opcode() != response::LOGIN {
            return Err(InitiatorError::Protocol(
                "it answered a login with something else",
            ));
        }
        self.stat_sn = answer.u32(24).wrapping_add(1);
        if answer.0[36] != 0 {
            return Err(InitiatorError::Login {
                class: answer.0[36],
                detail: answer.0[37],
            });
        }
        if to != from && answer.0[1] & 0x83 != 0x80 | to {
            return Err(InitiatorError::Protocol(
                "it does not go on to the next stage",
            ));
        }
        Pairs::parse(&text).map_err(|_| InitiatorError::Protocol("its text is none"))
    }
}
