"""What the guard against mass deletion holds back, and what operators accept of it.

Revision: 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("feeds", sa.Column("guard", sa.Text(), nullable=True))
    op.add_column("operations", sa.Column("deletes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("operations", "deletes")
    op.drop_column("feeds", "guard")
