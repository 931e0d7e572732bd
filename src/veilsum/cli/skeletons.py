"""The files that ``veilsum init`` and ``veilsum identity new`` write for people to fill in."""

from collections.abc import Mapping
from types import MappingProxyType

PARTY = """\
# party.toml: private to this organisation and readable by its owner alone (chmod 600)
name = "{name}"
key = "{name}.key"
federation = "federation.toml"
# listen = "0.0.0.0:7101"    # where to listen, if that differs from the address on the card

[floor]                      # no job can lower these
min_group = 10               # rows that a released figure rests on, ids that a peer brings, at least
max_epsilon = 8.0            # differential-privacy budget of one data set, in all
# max_runs = 20              # jobs that may learn something about one data set, in all
# max_signatures = 100000    # of ids that one peer has signed under one key that several runs use
# approvals = 1              # persons who must sign a job before this party takes part

# [approvers]                # `veilsum identity new --person alice` prints her line
# alice = "…"
"""

DATA = """
[data.customers]
source = "customers.parquet" # or a CSV file, or {{ duckdb = "crm.db", query = "SELECT …" }}
ids = {{ columns = ["phone"], kind = "phone", region = "US", duplicates = "refuse" }}
"""

COLUMNS = """
[data.customers]
source = "customers.parquet" # or a CSV file, or {{ duckdb = "crm.db", query = "SELECT …" }}; needs no ids

# [models.scorer]            # a model to predict with, or to train on; `veilsum model show FILE` looks at one
# file = "scorer.vsm"
"""

EXAMPLES: Mapping[str, str] = MappingProxyType({"hidden_psi": DATA, "secure_learning": COLUMNS})
"""Kind → what ``party.toml`` gets if it names no data set."""

JOBS: Mapping[str, str] = MappingProxyType(
    {
        "hidden_psi": """\
# job.toml: identical at every party; its hash is compared before anything else happens
kind = "hidden_psi"
purpose = "say here what the result is for: it is recorded and approved"
expires = {expires}

[parties]
client = "{own}"   # learns which of its own ids match
signer = "{other}"   # learns nothing about what matches

[data]                       # names of data sets in each party's own party.toml, never paths
{own} = "customers"
{other} = "customers"

[params]
mode = "hidden_one"          # `veilsum explain` says who will have learnt what
key_bits = 3072              # of the signer's key; 2048 takes a third of the time
# Other modes: "hidden_union", with member = ["{own}", "{other}"]: neither learns what matches.
# "open", with the roles above, or with member = […] and collector = "…": the matches are learnt openly.
""",
        "secure_learning": """\
# job.toml: identical at every party; its hash is compared before anything else happens
kind = "secure_learning"
purpose = "say here what the result is for: it is recorded and approved"
expires = {expires}
# inputs = {{ model = "scorer" }}  # of the modeller: a name under [models] of its party.toml

[parties]
owner = ["{own}", "{other}"]   # bring rows
computer = ["{own}", "{other}", "{third}"]   # any two of them that collude read everything
# modeller = "{own}"   # brings a model; it is needed for task = "predict"

[data]                       # names of data sets in each party's own party.toml, never paths
{own} = "customers"
{other} = "customers"

[params]
task = "train"               # or "predict", with the modeller's model
engine = "rss3"              # three computing parties, of which one may look at all it gets
model = {{ kind = "mlp", hidden = [32] }} # hidden = []: logistic regression; kind = "given", digest = "…"
features = {{ age = [0, 120], "lab[0-7]" = [-10, 10] }}   # column = [low, high], checked at each owner
target = "label"             # 0 to classes - 1
classes = 2
holdout = 0.2                # share of the rows that is kept from training, and measured
training = {{ epochs = 10, batch = 64, optimiser = {{ kind = "sgd", rate = 0.1, momentum = 0.9 }} }}

[params.release]             # who gets what; whoever is not named gets nothing
metrics = ["{own}", "{other}"]
weights = ["{own}"]
predictions = []
""",
    }
)
"""Kind → a job file with ``own``, ``other`` and ``third`` parties and an ``expires`` date."""
