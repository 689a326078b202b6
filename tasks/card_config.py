"""The part `card` of a data set file."""

from pydantic import BaseModel, ConfigDict, Field


class CardConfig(BaseModel):
    """What nobody but the owner of the data knows; it stands on the card of each version."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    intended_use: str = Field("", description="What the model's answers are used for, and by whom.")
    limits: str = Field("", description="What it must not be used for, and where it is known to be wrong.")
    licence: str = Field("", description="The licence of the images.")
