from gantune.api import export_best as export_best
from gantune.api import generator as generator
from gantune.api import open_run as open_run
from gantune.api import resume as resume
from gantune.api import search as search
from gantune.errors import GantuneError as GantuneError
from gantune.records import TrialRecord as TrialRecord
from gantune.run import Run as Run
from gantune.space import SearchSpace as SearchSpace
from gantune.space import load_space as load_space

__version__: str
