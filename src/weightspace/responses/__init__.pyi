from weightspace.responses.asking import Asker as Asker
from weightspace.responses.asking import Responses as Responses
from weightspace.responses.config import AskConfig as AskConfig
from weightspace.responses.questions import Questions as Questions
from weightspace.responses.questions import draw_questions as draw_questions
from weightspace.responses.questions import given_questions as given_questions

__all__: list[str]
