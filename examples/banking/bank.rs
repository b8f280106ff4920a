//! The bank: accounts that hold money, and transfers that move it. Money is made only when an account
//! is opened, and never lost.

use atlas_smr::prelude::*;

/// What clients may ask.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Opens an account with a deposit.
    Open { account: u64, deposit: u64 },
    /// Moves money, or moves nothing at all.
    Transfer { from: u64, to: u64, amount: u64 },
    /// What an account holds.
    Balance { account: u64 },
    /// Whether every deposit is still there.
    Audit,
}

/// What they are answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The account is open.
    Opened,
    /// The money is moved; what the paying account holds now.
    Transferred { left: u64 },
    /// What the account holds.
    Balance(u64),
    /// What all accounts hold together, and what was paid in.
    Audit(Audit),
    /// The request was refused, and changed nothing.
    Refused(Refusal),
}

/// The books.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Audit {
    pub(crate) accounts: u64,
    pub(crate) held: u128,
    pub(crate) paid_in: u128,
}

impl Audit {
    /// The invariant.
    pub(crate) const fn money_is_conserved(&self) -> bool {
        self.held == self.paid_in
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    NoSuchAccount(u64),
    AlreadyOpen,
    TooLittleMoney,
    TooMuchMoney,
    /// An unordered request that would change something.
    ReadOnly,
}

/// The application.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bank;

/// Accounts are under `a` and their number, what was paid in under this.
const PAID_IN: &[u8] = b"paid in";

fn key(account: u64) -> [u8; 9] {
    let mut key = [b'a'; 9];
    key[1..].copy_from_slice(&account.to_be_bytes());
    key
}

fn balance(books: &DivisibleMap, account: u64) -> Result<u64, Refusal> {
    let balance = books.get_as(&key(account)).ok().flatten();
    balance.ok_or(Refusal::NoSuchAccount(account))
}

/// Writes a number, which is neither too large for the map nor without encoding.
fn set<N: Serialize>(books: &mut DivisibleMap, key: &[u8], number: N) {
    if let Err(error) = books.put_as(key, &number) {
        unreachable!("{error}");
    }
}

fn open(books: &mut DivisibleMap, account: u64, deposit: u64) -> Result<Reply, Refusal> {
    if balance(books, account).is_ok() {
        return Err(Refusal::AlreadyOpen);
    }
    let paid_in: u128 = books.get_as(PAID_IN).ok().flatten().unwrap_or(0);
    set(books, &key(account), deposit);
    set(books, PAID_IN, paid_in + u128::from(deposit));
    Ok(Reply::Opened)
}

fn transfer(books: &mut DivisibleMap, from: u64, to: u64, amount: u64) -> Result<Reply, Refusal> {
    let (payer, payee) = (balance(books, from)?, balance(books, to)?);
    let left = payer.checked_sub(amount).ok_or(Refusal::TooLittleMoney)?;
    if from == to {
        return Ok(Reply::Transferred { left: payer });
    }
    let more = payee.checked_add(amount).ok_or(Refusal::TooMuchMoney)?;
    set(books, &key(from), left);
    set(books, &key(to), more);
    Ok(Reply::Transferred { left })
}

fn audit(books: &DivisibleMap) -> Audit {
    let all = &b"a"[..]..&b"b"[..];
    let mut audit = Audit {
        accounts: 0,
        held: 0,
        paid_in: books.get_as(PAID_IN).ok().flatten().unwrap_or(0),
    };
    for (account, _) in books.range(all) {
        audit.accounts += 1;
        let held: Option<u64> = books.get_as(account).ok().flatten();
        audit.held += u128::from(held.unwrap_or(0));
    }
    audit
}

impl ApplicationData for Bank {
    type Request = Request;
    type Reply = Reply;
}

impl Application for Bank {
    type State = DivisibleMap;

    // An audit looks at every account: it shall not hold up transfers.
    const CONCURRENT_READS: bool = true;

    fn initial_state(&self) -> DivisibleMap {
        DivisibleMap::new()
    }

    fn update(
        &self,
        books: &mut DivisibleMap,
        request: Request,
        _: &mut ExecutionContext,
    ) -> Reply {
        match request {
            Request::Open { account, deposit } => open(books, account, deposit),
            Request::Transfer { from, to, amount } => transfer(books, from, to, amount),
            request => Ok(self.read(books, request)),
        }
        .unwrap_or_else(Reply::Refused)
    }

    fn read(&self, books: &DivisibleMap, request: Request) -> Reply {
        match request {
            Request::Balance { account } => {
                balance(books, account).map_or_else(Reply::Refused, Reply::Balance)
            }
            Request::Audit => Reply::Audit(audit(books)),
            Request::Open { .. } | Request::Transfer { .. } => Reply::Refused(Refusal::ReadOnly),
        }
    }

    // Transfers between different accounts may run at the same time.
    fn keys(&self, request: &Request) -> ReadWriteSet {
        let nothing = ReadWriteSet::nothing();
        match request {
            Request::Open { account, .. } => nothing.write(&key(*account)).write(PAID_IN),
            Request::Transfer { from, to, .. } => nothing.write(&key(*from)).write(&key(*to)),
            Request::Balance { account } => nothing.read(&key(*account)),
            Request::Audit => ReadWriteSet::Unknown,
        }
    }
}
